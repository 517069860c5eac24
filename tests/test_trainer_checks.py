"""Precisions and strategies that a run cannot be made with are refused, in fine-tuning too; others are not."""

import pytest

from cxrbase.errors import ConfigError
from cxrbase.evaluation.finetune_settings import FineTune
from cxrbase.trainer_checks import refuse_precision, refuse_strategy


@pytest.mark.parametrize("precision", [None, 32, "32", "32-true", 16, "16", "16-mixed", "bf16", "bf16-mixed"])
def test_precisions_with_weights_in_float32_are_taken(precision):
    refuse_precision(precision, option="--trainer.precision")


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "half"])
def test_fine_tuning_refuses_the_others_by_the_name_of_its_option(precision):
    with pytest.raises(ConfigError, match=f"--finetune.precision must .*, got '{precision}': set it to 32-true"):
        FineTune(precision=precision)


@pytest.mark.parametrize("strategy", ["auto", "ddp", "lightning.pytorch.strategies.ModelParallelStrategy"])
def test_strategies_that_leave_weights_their_shapes_are_taken(strategy):
    refuse_strategy(strategy)
