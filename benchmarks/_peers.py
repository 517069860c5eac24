"""The training steps of transformers and of lightly, from their own blocks and with a copy of our weights."""

import copy
import warnings
from collections.abc import Callable

import torch
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models import utils
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
from lightly.models.modules.heads import DINOProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from cxrbase.backbones import create_backbone
from cxrbase.objectives import DINO, MAE, Objective, SimCLR
from cxrbase.views import Views

DINO_SHAPE = {"num_prototypes": 65536, "hidden_dim": 2048, "bottleneck_dim": 256}


class Peer(nn.Module):
    """A peer's step: `forward(views)` gives the loss, `after_step` does what follows the optimiser."""

    def after_step(self, progress: float) -> None:
        """Nothing, where there is no teacher."""


def plain_copy(vit: VisionTransformer) -> VisionTransformer:
    """A fresh timm ViT with the same weights and timm's own blocks."""
    width, depth, heads = vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads
    options = {"embed_dim": width, "depth": depth, "num_heads": heads}
    made = create_backbone("vit_small_patch16_224", image_size=224, options=options)
    made.load_state_dict(vit.state_dict())
    return made


class TransformersMAE(Peer):
    """ViTMAEForPreTraining."""

    def __init__(self, ours: MAE, options: dict) -> None:
        super().__init__()
        vit = ours.backbone
        config = ViTMAEConfig(
            image_size=224, patch_size=16, num_channels=1, hidden_size=vit.embed_dim,
            num_hidden_layers=len(vit.blocks), num_attention_heads=vit.blocks[0].attn.num_heads,
            intermediate_size=4 * vit.embed_dim, hidden_act="gelu", layer_norm_eps=1e-6,
            decoder_hidden_size=options["decoder_dim"], decoder_num_hidden_layers=options["decoder_depth"],
            decoder_num_attention_heads=options["decoder_heads"], decoder_intermediate_size=4 * options["decoder_dim"],
            mask_ratio=options["mask_ratio"], norm_pix_loss=True,
        )  # fmt: skip
        self.model = ViTMAEForPreTraining(config)
        self.model.load_state_dict(translated(ours, self.model.state_dict()))

    def forward(self, views: Views) -> Tensor:
        return self.model(views.global_[0]).loss


def translated(ours: MAE, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by the names that transformers uses; what it has and we have not stays."""
    names = {"backbone.cls_token": "vit.embeddings.cls_token",
             "backbone.pos_embed": "vit.embeddings.position_embeddings",
             "backbone.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
             "backbone.norm": "vit.layernorm", "mask_token": "decoder.mask_token",
             "decoder_embed": "decoder.decoder_embed",
             "decoder_norm": "decoder.decoder_norm", "decoder_pred": "decoder.decoder_pred"}  # fmt: skip
    blocks = {"backbone.blocks": "vit.layers", "decoder_blocks": "decoder.decoder_layers"}
    inside = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
              "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # fmt: skip
    found = dict(theirs)
    for name, value in ours.state_dict().items():
        module, _, kind = name.rpartition(".")
        stem = next((stem for stem in blocks if name.startswith(f"{stem}.")), None)
        if stem is None:
            found[names[name] if name in names else f"{names[module]}.{kind}"] = value
            continue
        number, within = module.removeprefix(f"{stem}.").split(".", 1)
        if within == "attn.qkv":
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                found[f"{blocks[stem]}.{number}.attention.{letter}_proj.{kind}"] = part
        else:
            found[f"{blocks[stem]}.{number}.{inside[within]}.{kind}"] = value
    return found


class LightlyMAE(Peer):
    """lightly's example of MAE for timm ViTs."""

    def __init__(self, ours: MAE, options: dict) -> None:
        super().__init__()
        vit = plain_copy(ours.backbone)
        self.mask_ratio, self.patch_size = options["mask_ratio"], 16
        self.backbone = MaskedVisionTransformerTIMM(
            vit=vit, weight_initialization="skip", pos_embed_initialization="skip"
        )
        self.sequence_length = self.backbone.sequence_length
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.decoder = MAEDecoderTIMM(
                num_patches=vit.patch_embed.num_patches, patch_size=16, in_chans=1, embed_dim=vit.embed_dim,
                decoder_embed_dim=options["decoder_dim"], decoder_depth=options["decoder_depth"],
                decoder_num_heads=options["decoder_heads"],
            )  # fmt: skip
        same = {name: value for name, value in ours.state_dict().items() if name in self.decoder.state_dict()}
        self.decoder.load_state_dict(self.decoder.state_dict() | same)
        self.criterion = nn.MSELoss()

    def forward(self, views: Views) -> Tensor:
        images, size = views.global_[0], len(views.global_[0])
        keep, mask = utils.random_token_mask(
            size=(size, self.sequence_length), mask_ratio=self.mask_ratio, device=images.device
        )
        encoded = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        masked = utils.repeat_token(self.decoder.mask_token, (size, self.sequence_length))
        decoded = self.decoder.decode(utils.set_at_index(masked, keep, encoded.type_as(masked)))
        prediction = self.decoder.predict(utils.get_at_index(decoded, mask))
        patches = utils.patchify(images, self.patch_size)
        target = utils.get_at_index(patches, mask - 1)
        mean, spread = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        return self.criterion(prediction, (target - mean) / (spread + 1e-6) ** 0.5)


class LightlyDINO(Peer):
    """lightly's example of DINO: every crop through the network by itself."""

    def __init__(self, ours: DINO, options: dict) -> None:
        super().__init__()
        width = ours.backbone.embed_dim
        self.student = plain_copy(ours.backbone)
        shape = (width, options["hidden_dim"], options["bottleneck_dim"], options["num_prototypes"])
        self.student_head = DINOProjectionHead(*shape, freeze_last_layer=1)
        take_over(self.student_head, ours.head)
        self.teacher, self.teacher_head = copy.deepcopy(self.student), DINOProjectionHead(*shape)
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=options["num_prototypes"], warmup_teacher_temp_epochs=5)

    def forward(self, views: Views) -> Tensor:
        update_momentum(self.student, self.teacher, m=0.996)
        update_momentum(self.student_head, self.teacher_head, m=0.996)
        teacher = [self.teacher_head(self.teacher(crop)).detach() for crop in views.global_]
        student = [self.student_head(self.student(crop)) for crop in [*views.global_, *views.local]]
        return self.criterion(teacher, student, epoch=10)


def take_over(theirs: DINOProjectionHead, ours: nn.Module) -> None:
    """Copies our head's weights; weight norm keeps direction and length apart."""
    mine = [module for module in ours.mlp if isinstance(module, nn.Linear)]  # type: ignore[union-attr, attr-defined]
    layers = [module for module in theirs.layers if isinstance(module, nn.Linear)]
    for own, other in zip(mine, layers, strict=True):
        other.load_state_dict(own.state_dict())
    with torch.no_grad():
        theirs.last_layer.weight_v.copy_(ours.prototypes.weight)  # type: ignore[union-attr, attr-defined]


class LightlySimCLR(Peer):
    """lightly's example of SimCLR."""

    def __init__(self, ours: SimCLR, options: dict) -> None:
        super().__init__()
        self.backbone = plain_copy(ours.backbone)
        self.head = SimCLRProjectionHead(ours.backbone.embed_dim, 2048, 128)
        self.head.load_state_dict(ours.head.state_dict())
        self.criterion = NTXentLoss(temperature=0.1)

    def forward(self, views: Views) -> Tensor:
        first, second = (self.head(self.backbone(crop).flatten(start_dim=1)) for crop in views.global_)
        return self.criterion(first, second)


PEERS: dict[str, dict[str, Callable[[Objective, dict], Peer]]] = {
    "mae": {"transformers": TransformersMAE, "lightly": LightlyMAE},  # type: ignore[dict-item]
    "dino": {"lightly": LightlyDINO},  # type: ignore[dict-item]
    "simclr": {"lightly": LightlySimCLR},  # type: ignore[dict-item]
}
