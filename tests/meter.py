"""Tensors really allocated: their bytes alive at once, counted at each operator."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorMeter(TorchDispatchMode):
    """`peak`: most bytes of tensors alive at once, of all tensors that an operator read or wrote (each storage once).

    What a kernel allocates for itself is not seen.
    """

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter((out, args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor.untyped_storage())
        self.peak = max(self.peak, self.total)
        return out

    def see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.total += storage.nbytes()
            weakref.finalize(storage, self.free, key)

    def free(self, key: int) -> None:
        self.total -= self.alive.pop(key)
