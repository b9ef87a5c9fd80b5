"""Adjoint gradients of differential equations, with the seminorm (Kidger, Chen and Lyons, 2021, arXiv 2009.09457).

The adjoint method solves a second equation backwards in time. What it finds for parameters and times are integrals, not
part of that equation's state; leaving them out of the solver's error norm saves evaluations. `odeint_adjoint` does so
by default, and keeps them out of the Runge-Kutta state altogether. Use it where memory forbids back-propagation through
the solver; prefer `odeint`, or `odeint_checkpointed`, where it does not, or where the backward solve warns that it is
unstable.

>>> import torch
>>> from paperworks.science import odeint_adjoint
>>> field = torch.nn.Linear(2, 2)
>>> func = torch.nn.Module()
>>> func.field, func.forward = field, lambda t, y: field(y).tanh()
>>> y = odeint_adjoint(func, torch.ones(3, 2), torch.tensor([0.0, 1.0]), rtol=1e-4, atol=1e-6)
>>> y[-1].sum().backward()
>>> field.weight.grad.shape
torch.Size([2, 2])
"""

from paperworks._lazy import attach

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "CNF": "cnf",
        "GradientError": "accuracy",
        "HermitePath": "paths",
        "LinearPath": "paths",
        "NeuralCDE": "neural_ode",
        "NeuralODE": "neural_ode",
        "SolveStats": "stats",
        "Solver": "solver",
        "SolverError": "stats",
        "SolverWarning": "stats",
        "SymplecticODE": "symplectic",
        "Tableau": "tableaux",
        "gradient_error": "accuracy",
        "odeint": "adjoint",
        "odeint_adjoint": "adjoint",
        "odeint_checkpointed": "checkpointed",
        "record_solves": "stats",
        "work_precision": "accuracy",
    },
)
__all__ = _names  # pyright: ignore[reportUnsupportedDunderAll]
