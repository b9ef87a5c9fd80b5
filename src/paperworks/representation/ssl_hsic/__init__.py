"""SSL-HSIC: self-supervised learning by kernel dependence maximisation (Li et al. 2021, arXiv 2106.08320).

Features should depend on which image a view is of, measured by HSIC, and on no more than they must: the loss is
`gamma sqrt(HSIC(Z, Z)) - HSIC(Z, Y)`. Use it where InfoNCE or BYOL is used, when a loss with a statistical meaning, no
temperature and a cost linear in the batch is wanted. HSIC itself comes with it, with a permutation test: are two groups
of columns independent, whatever their relation?

>>> import torch
>>> from paperworks.nn import SmallConvNet
>>> from paperworks.representation import SSLHSIC, hsic_test
>>> model = SSLHSIC(SmallConvNet(3), target=False, projector=(64, 32))
>>> model(torch.rand(8, 3, 16, 16), torch.rand(8, 3, 16, 16)).loss.shape
torch.Size([])
>>> x = torch.linspace(-1, 1, 40)[:, None]
>>> hsic_test(x, x.square(), permutations=99, generator=torch.Generator().manual_seed(0)).p_value
0.01
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.representation.ssl_hsic.checkpoint import load_official_checkpoint
    from paperworks.representation.ssl_hsic.dependence import dependence_table
    from paperworks.representation.ssl_hsic.estimators import hsic, hsic_test, mmd2
    from paperworks.representation.ssl_hsic.features import FourierFeatures
    from paperworks.representation.ssl_hsic.kernels import imq_kernel, linear_kernel, rbf_kernel
    from paperworks.representation.ssl_hsic.loss import HsicTerms, infonce_second_order, ssl_hsic_loss
    from paperworks.representation.ssl_hsic.model import SSLHSIC
    from paperworks.representation.ssl_hsic.width import KernelWidth

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "SSLHSIC": "model",
        "FourierFeatures": "features",
        "HsicTerms": "loss",
        "KernelWidth": "width",
        "dependence_table": "dependence",
        "hsic": "estimators",
        "hsic_test": "estimators",
        "imq_kernel": "kernels",
        "infonce_second_order": "loss",
        "linear_kernel": "kernels",
        "load_official_checkpoint": "checkpoint",
        "mmd2": "estimators",
        "rbf_kernel": "kernels",
        "ssl_hsic_loss": "loss",
    },
)
__all__ = [
    "SSLHSIC",
    "FourierFeatures",
    "HsicTerms",
    "KernelWidth",
    "dependence_table",
    "hsic",
    "hsic_test",
    "imq_kernel",
    "infonce_second_order",
    "linear_kernel",
    "load_official_checkpoint",
    "mmd2",
    "rbf_kernel",
    "ssl_hsic_loss",
]
