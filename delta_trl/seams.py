"""Whether the installed TRL is one that the trainers here can stand on: its class, its methods, and what its loss does.

Symbols: B completions of T tokens.
"""

import copy
import functools
import inspect
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, ParamSpec

import torch
from trl import GRPOTrainer


Given = ParamSpec("Given")

# Minor versions of TRL that the test suite has passed with, oldest and newest
TESTED_TRL = ("1.13", "1.16")

# Untested versions that this process was warned about
_said: set[str] = set()


@functools.cache
def check_seams(trainer_class: Any, trl_trainer: type = GRPOTrainer) -> None:
    """
    Check, once for each class, that TRL's trainer is TRL's and has the methods that `trainer_class` overrides.

    Raises:
        `RuntimeError`: if another package has put its own class in the place of TRL's; if a method or a parameter that is
            relied on is missing, naming it and the versions.
    """
    if trl_trainer.__module__.partition(".")[0] != "trl":
        raise RuntimeError(
            f"trl.GRPOTrainer is {trl_trainer.__module__}.{trl_trainer.__name__}, which another package has put in the "
            f"place of TRL's own (Unsloth does so when it is imported). {trainer_class.__name__} was not tested on it, and "
            "its loss may ignore weights of single tokens. Leave out `import unsloth`, or train with that trainer itself."
        )
    for method, needed in trainer_class._seams.items():
        if not hasattr(trl_trainer, method):
            missing = method
        else:
            parameters = inspect.signature(getattr(trl_trainer, method)).parameters
            takes_any = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
            names = [] if takes_any else [name for name in needed if name not in parameters]
            missing = f"{method}({', '.join(names)})" if names else None
        if missing is not None:
            raise RuntimeError(
                f"{trainer_class.__name__} overrides {trl_trainer.__name__}.{missing}, which trl {version('trl')} does not "
                f"have: {_tested()}"
            )


def with_signature_of(original: Callable[Given, Any]) -> Callable[[Callable[..., None]], Callable[Given, None]]:
    """For editors and type checkers: the decorated `__init__` takes what TRL's takes. At run time it is left as it is."""
    return lambda function: function


def check_untested_version(trainer: Any) -> None:
    """
    Say so, once for each process, if this TRL is untested. If the trainer weighs tokens, try the loss on a tiny batch.

    Raises:
        `RuntimeError`: if the loss does not treat weights of single tokens as those of the tested versions do.
    """
    installed = version("trl")
    oldest, newest = (tuple(map(int, minor.split("."))) for minor in TESTED_TRL)
    if oldest <= tuple(int(part) for part in installed.split(".")[:2]) <= newest:
        return
    found = ""
    if "compute_loss" in trainer._seams and trainer.importance_sampling_level == "token":
        try:
            wrong = probe_loss(trainer)
        except Exception as error:  # of TRL's code, which nobody here has seen
            found = f" It could not be tried on a tiny batch either ({type(error).__name__}: {error})."
        else:
            if wrong is not None:
                raise RuntimeError(f"{wrong} This is trl {installed}; {_tested()}")
            found = " On a tiny batch its loss weighs each token as it should."
    if installed not in _said:
        _said.add(installed)
        message = f"trl {installed} is untested with delta_trl.{found} If training looks wrong: {_tested()}"
        warnings.warn(message, stacklevel=4)  # whoever builds the trainer


def _tested() -> str:
    newest = tuple(map(int, TESTED_TRL[1].split(".")))
    return (
        f"the tests have passed with trl {TESTED_TRL[0]} to {TESTED_TRL[1]}: pip install "
        f"'trl>={TESTED_TRL[0]},<{newest[0]}.{newest[1] + 1}'."
    )


def probe_loss(trainer: GRPOTrainer) -> str | None:
    """
    What is wrong with the loss of the installed TRL under this trainer's options, or None.

    Advantages of shape (B, T) must weigh each token by its own, and those that repeat the (B,) ones must change no bit of
    the loss or of its gradient. Log-probabilities are made up, so that no model runs; metrics stay as they were.
    """
    advantages = torch.tensor([0.5, -1.5], device=trainer.accelerator.device)
    weights = torch.tensor([[0.5, 1.0, 1.5], [2.0, 0.25, 1.25]], device=advantages.device)
    loss, gradient = _made_up_loss(trainer, advantages)
    same_loss, same_gradient = _made_up_loss(trainer, advantages[:, None] * torch.ones_like(weights))
    if not (torch.equal(loss, same_loss) and torch.equal(gradient, same_gradient)):
        return (
            f"TRL's loss is {loss.item()} for advantages of shape (B,) and {same_loss.item()} for the same ones of shape "
            "(B, T), so that weights of 1 change training."
        )
    _, weighted = _made_up_loss(trainer, advantages[:, None] * weights)
    if not (gradient.any() and torch.allclose(weighted, gradient * weights, rtol=1e-4, atol=1e-7)):
        return (
            "TRL's loss does not weigh each token by its own advantage of shape (B, T): for weights of "
            f"{weights.tolist()} its gradient is {weighted.tolist()} in place of {(gradient * weights).tolist()}."
        )
    return None


def _made_up_loss(trainer: GRPOTrainer, advantages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """TRL's loss of two completions of three tokens, and its gradient with respect to their log-probs, shape (2, 3)."""
    ids = torch.ones(2, 3, dtype=torch.long, device=advantages.device)
    log_probs = torch.linspace(-2.0, -0.5, 6, device=advantages.device).view(2, 3).requires_grad_()
    entropies = torch.linspace(0.5, 2.0, 6, device=advantages.device).view(2, 3)
    inputs = {
        **dict.fromkeys(("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"), ids),
        **dict.fromkeys(
            ("old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps"), log_probs.detach()
        ),
        "importance_sampling_ratio": torch.ones_like(entropies),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(6, device=advantages.device),
    }
    metrics, training = copy.deepcopy(trainer._metrics), trainer.model.training
    trainer.model.eval()  # TRL's loss of an evaluation: the same, without what belongs to a step of training
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (
        log_probs,
        entropies,
        log_probs.new_zeros(()),
    )
    try:
        loss = GRPOTrainer.compute_loss(trainer, trainer.model, inputs)
    finally:
        del trainer._get_per_token_logps_and_entropies
        trainer.model.train(training)
        trainer._metrics = metrics
    (gradient,) = torch.autograd.grad(loss, log_probs)
    return loss.detach(), gradient
