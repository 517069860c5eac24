"""Interchangeable self-supervised objectives over one shared backbone."""

from cxrbase.objectives.base import Loss, MomentumTeacher, Objective
from cxrbase.objectives.dino import DINO
from cxrbase.objectives.mae import MAE
from cxrbase.objectives.simclr import SimCLR

__all__ = ["DINO", "MAE", "Loss", "MomentumTeacher", "Objective", "SimCLR"]
