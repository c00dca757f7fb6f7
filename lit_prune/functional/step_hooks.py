"""Hooks before and after the step of an optimizer, whatever library it comes from."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lit_prune.errors import expected


def before_step(
    optimizer: Optimizer, gradients: Callable[[], None], weights: Callable[[], None] | None = None
) -> RemovableHandle:
    """Call functions before each step of an optimizer, and before and after each call of the closure that it receives.

    Args:
        optimizer: Any optimizer.
        gradients: Called before the step, and after each call of the closure, which computes new gradients.
        weights: Called before each call of the closure, because LBFGS moves the weights between two calls.

    Returns:
        A handle; its method `remove` ends the effect.
    """

    def hook(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        gradients()

        def wrap(closure: Callable[[], Any]) -> Callable[[], Any]:
            def call() -> Any:
                if weights is not None:
                    weights()
                loss = closure()
                gradients()
                return loss

            return call

        positional = (*args[:1], *(wrap(value) if callable(value) else value for value in args[1:2]), *args[2:])
        return positional, {key: wrap(value) if key == "closure" and value else value for key, value in options.items()}

    return hookable(optimizer).register_step_pre_hook(hook)


def hookable(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer or, if it has no hooks, the optimizer inside it that has.

    Wrappers such as those of Accelerate do not call `Optimizer.__init__`, without which an optimizer has no hooks.

    Raises:
        InputError: If neither the optimizer nor one inside it has hooks.
    """
    for candidate in with_inner(optimizer):
        if hasattr(candidate, "_optimizer_step_pre_hooks"):
            return candidate
    raise expected(
        f"{type(optimizer).__name__} to call `Optimizer.__init__`",
        "an optimizer that calls no hooks",
        "call `super().__init__(params, defaults)` in its `__init__`",
    )


def with_inner(optimizer: Optimizer) -> Iterator[Optimizer]:
    """Yield an optimizer and the optimizers that it wraps, from the outside in."""
    yield optimizer
    for value in vars(optimizer).values():
        if isinstance(value, Optimizer):
            yield from with_inner(value)
