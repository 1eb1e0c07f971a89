"""Hashed layers under torch.distributed."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hashdl.nn import HashSoftmaxWithLoss
from hashdl.tables import HashTables


def keep_tables_local(model: nn.Module) -> nn.Module:
    """Have DistributedDataParallel leave the hash tables of a model alone.

    Tables are buffers, which DistributedDataParallel would send from rank 0 to all others, at its
    beginning and before every forward: far more than gradients, and they would be built anew after
    each. Every process builds its own, of the same weights. Call it on the model that is wrapped,
    as a whole.

    DistributedDataParallel takes dense gradients alone: leave ``config.sparse_grad`` off.

    Args:
        model: what will be wrapped.

    Returns:
        The model.

    Examples:
        >>> import hashdl
        >>> model = keep_tables_local(hashdl.convert(nn.Sequential(nn.Linear(8, 100))))
    """
    names = {
        f"{fqn}.{name}" if fqn else name
        for fqn, module in model.named_modules()
        if isinstance(module, HashTables | HashSoftmaxWithLoss)
        for name, _ in module.named_buffers(recurse=False)  # others inside stay torch's
    }
    others = getattr(model, "_ddp_params_and_buffers_to_ignore", ())
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names.union(others))
    return model
