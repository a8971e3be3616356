"""Measures the bytes of tensors alive at the same time, at each operator, and the number of models alive."""

import gc
import weakref

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode


class TensorMeter(TorchDispatchMode):
    """Measures `peak`: maximum bytes of live tensors that operators read or wrote (each storage once).

    Allocations inside kernels are not counted.
    """

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in (out, *args, *(kwargs or {}).values()):
            self.see(value)
        self.peak = max(self.peak, self.total)
        return out

    def see(self, value: object) -> None:
        """Count the storage of a tensor, or of each in a list."""
        if isinstance(value, (list, tuple)):
            for one in value:
                self.see(one)
        elif isinstance(value, torch.Tensor) and (key := (storage := value.untyped_storage())._cdata) not in self.alive:
            self.alive[key] = storage.nbytes()
            self.total += storage.nbytes()
            weakref.finalize(storage, self.free, key)

    def free(self, key: int) -> None:
        self.total -= self.alive.pop(key)


class ModelMeter:
    """Measures `most`: maximum number of live models of one class created within; `alive`: those still alive.

    Models on the meta device count only while they are created. Garbage collection is off, since its timing varies:
    reference cycles stay alive until it is called.
    """

    def __init__(self, kind: type):
        self.kind, self.made, self.most = kind, weakref.WeakSet(), 0

    @property
    def alive(self) -> list[torch.nn.Module]:
        return [model for model in self.made if not next(model.parameters()).is_meta]

    def __enter__(self):
        self.hook = register_module_module_registration_hook(self.see)
        gc.disable()
        return self

    def __exit__(self, *_):
        self.hook.remove()
        gc.enable()

    def see(self, _, name: str, module: torch.nn.Module | None) -> None:
        if isinstance(module, self.kind):
            self.most = max(self.most, 1 + len([model for model in self.alive if model is not module]))
            self.made.add(module)
