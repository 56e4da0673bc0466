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
    channelwise : bool
        Whether all it does to a host is to scale and shift channels: then a normalisation that
        follows can do as well, and ``adapter_targets="auto"`` leaves the host out.

    See Also
    --------
    FiLMAdapter : Scale and shift of each channel.
    sk_metricopt.testing.check_adapter : The contract as a test.

    Examples
    --------
    An adapter that shifts the outputs of linear layers, and nothing else:

    >>> import torch
    >>> from sk_metricopt.adapters import BaseAdapter
    >>> from sk_metricopt.testing import check_adapter
    >>> class BiasAdapter(BaseAdapter):
    ...     host_types = (torch.nn.Linear,)
    ...     def n_params(self, host):
    ...         return host.out_features
    ...     def weights(self, host, params):
    ...         return {"bias": host.bias + params}
    >>> check_adapter(BiasAdapter(), torch.nn.Linear(3, 2), torch.randn(5, 3))
    """

    host_types: tuple[type[nn.Module], ...] = ()
    channelwise: bool = False

    def prepare(self, host: nn.Module) -> None:  # noqa: B027
        """Create the parameters that the adapter needs and the host lacks.

        Parameters
        ----------
        host : torch.nn.Module
            A private copy of the layer.
        """

    @abstractmethod
    def n_params(self, host: nn.Module) -> int:
        """Return how many entries of φ belong to a host.

        Parameters
        ----------
        host : torch.nn.Module

        Returns
        -------
        int
        """

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

        Parameters
        ----------
        host : torch.nn.Module
        output : Tensor of shape (n_rows, ...)
            What the host computes without the adapter.
        params : Tensor of shape (n_params(host),)

        Returns
        -------
        Tensor or None
        """
        return None

    def output_shift(self, host: nn.Module, shift: Tensor) -> Tensor | None:
        """Return the increment of φ that adds `shift` to the host's output.

        Parameters
        ----------
        host : torch.nn.Module
        shift : Tensor of shape (n_channels,)

        Returns
        -------
        Tensor of shape (n_params(host),) or None
            None if the adapter cannot shift an output independently of the rest of φ.
        """
        return None
