"""How a model is fitted: one plain loop on Lightning Fabric, and the small parts around it. Knows no paper.

from functools import partial
import torch.nn.functional as F
from paperworks.train import (Budget, Checkpoint, EarlyStopping, EpochBatches, Evaluation, ProgressLine, Recipe,
                              adamw, fit, make_fabric, warmup_linear)

def loss(model, batch):                                   # a scalar: the mean of the batch
    return F.cross_entropy(model(batch["ids"], mask=batch["mask"]), batch["labels"])

def accuracy(model):                                      # called without gradients, in eval mode
    return {"accuracy": (model(dev_ids, mask=dev_mask).argmax(-1) == dev_labels).float().mean().item()}

batches = EpochBatches({"ids": ids, "mask": mask, "labels": labels}, size=32, seed=0)
total = 6 * len(batches)                                  # six epochs
result = fit(model, loss, batches, seed=0, budget=Budget(steps=total),
             recipe=Recipe(partial(adamw, lr=1e-3), schedule=warmup_linear(total, total // 10), clip=1.0),
             evaluation=Evaluation(accuracy, every=100, stopping=EarlyStopping("accuracy", "max", patience=3)),
             checkpoint=Checkpoint("run/last.pt"),        # a second call continues exactly where a kill left off
             progress=ProgressLine(), fabric=make_fabric(precision="mixed"))
result.losses, result.steps, result.seconds, result.evaluations, result.stopped_because
"""

from paperworks._lazy import attach

__getattr__, __dir__, __all__ = attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "Averaging": "ema",
        "Batches": "batches",
        "Budget": "loop",
        "Checkpoint": "checkpoint",
        "EarlyStopping": "evaluation",
        "EpochBatches": "batches",
        "Evaluated": "evaluation",
        "Evaluation": "evaluation",
        "ExponentialAverage": "ema",
        "FitResult": "loop",
        "ProgressLine": "progress",
        "Recipe": "step",
        "Report": "progress",
        "SelfSupervised": "self_supervised",
        "TokenBatches": "batches",
        "adamw": "optim",
        "constant": "schedules",
        "decay_groups": "optim",
        "embed_images": "probes",
        "fit": "loop",
        "fit_self_supervised": "self_supervised",
        "frozen_batch_statistics": "batch_statistics",
        "gather_rows": "gather",
        "infonce_loss": "contrast",
        "knn_probe": "probes",
        "linear_probe": "probes",
        "make_fabric": "devices",
        "mc_dropout": "dropout",
        "mixed_precision": "devices",
        "multiplies_bfloat16": "devices",
        "sgd": "optim",
        "warmup_constant": "schedules",
        "warmup_cosine": "schedules",
        "warmup_linear": "schedules",
    },
)
