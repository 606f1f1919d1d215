"""What changes modules that exist: parametrized weights. Names are ``torch.nn.utils``'s."""

from graphc.nn.utils import parametrizations, parametrize

__all__ = ["parametrizations", "parametrize"]
