"""Images from a trained denoiser, drawn in batches over the devices of a mesh."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from score_sde import parallel
from score_sde.denoising.denoiser import Condition, Denoiser, Params
from score_sde.denoising.dynamics import Denoise
from score_sde.guidance import Guidance, Observation, guide
from score_sde.latents import Codec, Identity
from score_sde.solvers import Solver, sample
from score_sde.solvers.grids import Grid


class Generated(NamedTuple):
    """Consecutive images on the host.

    The fields are the index of the first image, the images, their conditions and their evaluations.
    `trajectory` holds the states of each image after the steps that the generator keeps, or None.
    """

    first_index: int
    x: Float[np.ndarray, "b *shape"]
    condition: dict[str, np.ndarray]
    nfe: Int[np.ndarray, " b"]
    trajectory: Float[np.ndarray, "b k *shape"] | None


class Generator(NamedTuple):
    """Draws image i from fold_in(key, i). The noise depends neither on the batch size nor on the devices.

    With the same batch size, the same devices and the same place in the batch, an image is the same
    to the bit. Otherwise it is the same to rounding, because the sums run in another order
    (measured: 4e-7, and 5e-5 with the adaptive solvers).

    Attributes:
      shape: the shape of one image as the denoiser sees it.
      condition: condition(first_index, number) is the condition of a batch of images.
      observation: observation(first_index, number) is the observation of these images, for guidance.
      guidance: the rules around the bound denoiser, the innermost first.
      keep: the steps after which the states are kept (0 is the start). None are kept by default.
      place: puts parameters on the mesh. None copies them to every device. Parameters that `place`
        divides stay divided: XLA gathers the parameters of a layer when the layer runs.
      codec: decodes the drawn images and the kept states.
    """

    denoiser: Denoiser
    solver: Solver
    grid: Grid
    shape: tuple[int, ...]
    mesh: Mesh
    condition: Callable[[int, int], Condition] = lambda first_index, number: {}
    guidance: tuple[Guidance, ...] = ()
    keep: tuple[int, ...] = ()
    place: Callable[[Params], Params] | None = None
    codec: Codec = Identity()
    observation: Callable[[int, int], Observation] = lambda first_index, number: {}

    def batches(
        self, key: Key[Array, ""], params: Params, number: int, batch_size: int, first_index: int = 0
    ) -> Iterator[Generated]:
        """Yields images first_index … first_index + number − 1 in order, `batch_size` at a time.

        The last batch is drawn whole and then cut, so that all batches use one program.

        Raises: ValueError unless number >= 1 and batch_size is a multiple of the number of devices
          that share it.
        """
        if number < 1:
            raise ValueError(f"Sampling needs a number of images >= 1, got {number}.")
        params = parallel.replicate(params, self.mesh) if self.place is None else self.place(params)
        for start in range(first_index, first_index + number, batch_size):
            yield self.batch(key, params, batch_size, start, min(batch_size, first_index + number - start))

    def batch(
        self, key: Key[Array, ""], params: Params, batch_size: int, first_index: int = 0, count: int | None = None
    ) -> Generated:
        """Images first_index … first_index + batch_size − 1 as one program. The first `count` of them are returned.

        `params` must be as `place` gives them, so that calls for several batches do not move them
        again.

        Raises: ValueError unless batch_size is a multiple of the number of devices that share it.
        """
        parallel.check_batch_size(batch_size, self.mesh)
        sharding = parallel.batch_sharding(self.mesh)
        told = dict(self.condition(first_index, batch_size)), dict(self.observation(first_index, batch_size))
        condition, observation = jax.device_put(told, sharding)
        denoise = self.denoise(params, condition, observation)
        shape = (batch_size, *self.shape)
        samples = sample(
            key,
            denoise,
            self.solver,
            self.grid,
            shape,
            first_index=first_index,
            keep=self.keep,
            sharding=sharding,
        )
        x, trajectory = self.codec.decode(samples.x), samples.trajectory
        if trajectory is not None:
            trajectory = jnp.stack([self.codec.decode(state) for state in trajectory], axis=1)
        parts = parallel.to_host((x, condition, samples.nfe, trajectory))
        return Generated(first_index, *jax.tree.map(lambda rows: rows[:count], parts))

    def denoise(self, params: Params, condition: Condition, observation: Observation | None = None) -> Denoise:
        """The network with these parameters and this condition, under the guidance, which gets the observation."""
        return guide(self.denoiser.bind(params, condition), self.guidance, observation)

    def __call__(
        self, key: Key[Array, ""], params: Params, number: int, batch_size: int | None = None, first_index: int = 0
    ) -> Generated:
        """All the images at once. `batch_size` None is one batch, rounded up to a multiple of the number of devices."""
        if batch_size is None:
            batch_size = parallel.round_up(number, self.mesh)
        return join(list(self.batches(key, params, number, batch_size, first_index)))


def join(parts: Sequence[Generated]) -> Generated:
    """Consecutive parts as one part."""
    arrays = jax.tree.map(lambda *rows: np.concatenate(rows), *(part[1:] for part in parts))
    return Generated(parts[0].first_index, *arrays)
