"""The adapter contract."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class BaseAdapter(ABC):
    """A pure function of a flat vector φ that says which weights a host layer uses.

    An adapter holds no parameters itself. For a host layer and the slice of φ that belongs to
    it, `weights` returns the tensors that take the place of the host's own for the length of a
    call. ``φ = 0`` is the identity. Folding writes the same tensors into a copy of the module,
    so that what was trained is what is deployed.

    Attributes
    ----------
    host_types : tuple of type
        Layer types that can host the adapter.

    See Also
    --------
    FiLMAdapter : Scale and shift of each channel.
    sk_metricopt.testing.check_adapter : The contract as a test.
    """

    host_types: tuple[type[nn.Module], ...] = ()

    def prepare(self, host: nn.Module) -> None:  # noqa: B027
        """Create, on a private copy of `host`, the parameters the adapter needs and it lacks."""

    @abstractmethod
    def n_params(self, host: nn.Module) -> int:
        """Return how many entries of φ belong to `host`."""

    @abstractmethod
    def weights(self, host: nn.Module, params: Tensor) -> dict[str, Tensor]:
        """Return the tensors that replace the parameters of `host`, by name.

        Parameters
        ----------
        host : torch.nn.Module
            A prepared layer of one of `host_types`.
        params : Tensor of shape (n_params(host),)
            The slice of φ that belongs to `host`.

        Returns
        -------
        dict of str to Tensor
            Differentiable in `params`, each of the shape of the parameter it replaces.
        """

    def modulate(self, host: nn.Module, output: Tensor, params: Tensor) -> Tensor | None:
        """Return the adapted output given the host's own `output`, or None if impossible.

        Adapters that act on outputs make it possible to compute everything up to the first host
        once. The result must equal the host's output under `weights`.
        """
        return None

    def output_shift(self, host: nn.Module, shift: Tensor) -> Tensor | None:
        """Return the increment of φ that adds `shift` (n_channels,) to the host's output.

        None if the adapter cannot shift an output independently of the rest of φ.
        """
        return None
