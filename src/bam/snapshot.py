"""Snapshots of a network's modules, so that a change to a network happens completely or not at all."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def need_module(model: object) -> None:
    """Raise ValueError unless `model` is a `torch.nn.Module`."""
    if not isinstance(model, nn.Module):
        function = callable(model)
        hint = f"; did you forget the brackets: {getattr(model, '__name__', 'network')}(...)?" if function else ""
        raise ValueError(f"a network must be a torch.nn.Module, got a {type(model).__name__}{hint}")


class Snapshot:
    """Classes, attributes, parts, hooks and modes of all modules of `model`, and which tensors need a gradient.

    The values of tensors are not copied, except those of `values`.
    """

    def __init__(self, model: nn.Module, values: Iterable[Tensor] = ()) -> None:
        self._scripted = []  # ScriptModules keep their attributes elsewhere
        self._modules = []
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                self._scripted.append((module, module.training))
                continue
            containers = {name: v for name, v in module.__dict__.items() if isinstance(v, dict | list | set)}
            contents = {name: v.copy() if v else () for name, v in containers.items()}
            self._modules.append((module, type(module), dict(module.__dict__), contents))
        self._gradients = [(p, p.requires_grad) for p in model.parameters()]
        self._values = [(value, value.detach().clone()) for value in values]

    def restore(self) -> None:
        """Restore everything."""
        for scripted, training in self._scripted:
            scripted.train(training)
        for module, cls, attributes, contents in self._modules:
            object.__setattr__(module, "__class__", cls)  # bypasses the module's own `__setattr__`
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for name, content in contents.items():  # including parameters, buffers and submodules
                container = attributes[name]
                container.clear()
                container.extend(content) if isinstance(container, list) else container.update(content)
        for parameter, needs_gradient in self._gradients:
            parameter.requires_grad_(needs_gradient)
        with torch.no_grad():
            for value, saved in self._values:
                value.copy_(saved)


@contextlib.contextmanager
def all_or_nothing(model: nn.Module, values: Iterable[Tensor] = ()) -> Iterator[None]:
    """Restore `model` if the body raises; `values` are the tensors whose values the body may change."""
    before = Snapshot(model, values)
    try:
        yield
    except BaseException:
        before.restore()
        raise
