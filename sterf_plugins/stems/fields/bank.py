"""A bank of affine Gaussian-derivative receptive fields."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import distinct, entries, finite_number, flag, one_of, positive_int
from ...functional import affine_gaussian as ag
from ...functional.precision import without_autocast
from .bank_checks import check_sampling, derivative_orders, numbers, sigma_bounds, window_size
from .fixed import FixedNumbers, in_default_precision

NORMALIZATIONS = ("affine", "none", "l1")
LEARNABLE = ("sigma", "ratio", "angle", "frame")
# what is stored -> the arguments that it comes from
_ARGUMENTS = {
    "frame": "fields (sigmas, ratios, angles)",
    "log_sigma": "sigmas",
    "log_ratio": "ratios",
    "angle": "angles",
}


class RFBank(FixedNumbers):
    """Affine Gaussian-derivative kernels as a pure function of their parameters.

    A field has a size ``sigma`` (pixels, geometric mean of its two standard deviations), a ``ratio`` of the longer to
    the shorter one, and the ``angle`` of the longer one; round fields (ratio 1) have one angle. Each field is
    differentiated by each of ``orders`` along its axes. Kernels are for convolution (flip them for ``conv2d``), y down.

    Args:
        sigmas: sizes in pixels, each once, as the numbers of all these lists: another kernel of the same field has nothing new.
        ratios: elongations, >= 1.
        n_angles: number of angles, k pi / n_angles for k = 0, 1, ...; unused if ``angles`` is given.
        angles: radians, from +x towards +y.
        orders: (m, n) derivative orders along the longer and the shorter axis; an int N means all with m + n <= N.
        kernel_size: side of the window in pixels, odd; ``None``: as large as ``truncate`` asks for.
        truncate: half width of the window in standard deviations of the widest field.
        discretization: "sampled", "integrated", "integrated_comp", "stencil" or "discrete"
            (``functional.affine_gaussian.affine_kernels``).
        normalize: "affine": responses are the same under every affine map of image and field; "none": plain
            derivatives along unit directions; "l1": affine, divided by the L1 norm of the order's continuous kernel.
        zero_dc: make derivative kernels sum to 0, so that constant images give 0.
        learn: what is learned: any of "sigma", "ratio" and "angle"; or "frame", all four numbers of each field's frame
            (``functional.affine_gaussian``). By default nothing is.
        shared: True: fields share one parameter per entry of ``sigmas``, ``ratios`` and ``angles``; False: each field
            has its own.
        bounds: (lowest, highest) sigma in pixels that learning can approach; all ``sigmas`` lie well between them.
            ``None``: no limits. For a learned "sigma" alone: a learned "frame" has none.

    Raises:
        ValueError, TypeError: an argument is out of range, or the fields cannot be represented on the pixel grid.

    Warns:
        UserWarning: derivatives of these orders are inaccurate at this sigma, or the window is below 2 sigma.

    Source: Nat. Commun. 16:8231 (2025).
    """

    # The frames as they are ("frame"), or the numbers that they are made of and, for each field, its entries in them.
    frame: Tensor
    log_sigma: Tensor
    log_ratio: Tensor
    angle: Tensor
    _index: tuple[tuple[int, ...], ...]
    frozen: Tensor  # the kernels, where nothing is learned

    def __init__(
        self,
        sigmas: Sequence[float] = (1.0, 2**0.5, 2.0),
        ratios: Sequence[float] = (1.0, 2.0),
        n_angles: int = 4,
        angles: Sequence[float] | None = None,
        orders: int | Iterable[ag.Order] = 2,
        *,
        kernel_size: int | None = None,
        truncate: float = 3.0,
        discretization: str = "sampled",
        normalize: str = "affine",
        zero_dc: bool = True,
        learn: Sequence[str] = (),
        shared: bool = True,
        bounds: tuple[float, float] | None = None,
    ):
        sigmas, ratios = numbers("sigmas", sigmas, 0.0), numbers("ratios", ratios, 1.0)
        if angles is None:
            count = positive_int("n_angles", n_angles)
            angles = [k * math.pi / count for k in range(count)]
        angles = numbers("angles", angles)
        fields = [
            (i, j, k)
            for i in range(len(sigmas))
            for j, ratio in enumerate(ratios)
            for k in range(len(angles) if ratio > 1 else 1)
        ]
        super().__init__()
        # On the CPU whatever the default device, which may hold no numbers ("meta"); `_store` moves what is kept.
        i, j, k = (torch.tensor(column, device="cpu") for column in zip(*fields, strict=True))
        values = [torch.tensor(v, dtype=torch.float64, device="cpu") for v in (sigmas, ratios, angles)]
        if not flag("shared", shared):
            values = [v[index] for v, index in zip(values, (i, j, k), strict=True)]
            i = j = k = torch.arange(len(fields), device="cpu")
        self._index = tuple(tuple(index.tolist()) for index in (i, j, k))
        sigma, ratio, angle = values
        frames = ag.frame_of_eigen(sigma[i] * ratio[j].sqrt(), sigma[i] / ratio[j].sqrt(), angle[k])
        self._finish(
            frames,
            orders,
            learn,
            values,
            bounds,
            kernel_size=kernel_size,
            truncate=truncate,
            discretization=discretization,
            normalize=normalize,
            zero_dc=zero_dc,
        )

    @classmethod
    def from_matrices(
        cls,
        covariances: Tensor | Sequence,
        directions: Tensor | Sequence | None = None,
        orders: int | Iterable[ag.Order] = 2,
        **options,
    ) -> "RFBank":
        """A bank of given covariances (N, 2, 2), differentiated along given directions (N, 2).

        Args:
            covariances: symmetric and positive definite, [[Cxx, Cxy], [Cxy, Cyy]] in pixels squared.
            directions: first derivative direction (x, y) of each field, any length; the second one is conjugate to
                it. ``None``: the longer axis.
            orders: (m, n) derivative orders along the two directions; an int N means all with m + n <= N.
            **options: the class's ``kernel_size``, ``truncate``, ``discretization``, ``normalize``, ``zero_dc`` and
                ``learn``, which is () or ("frame",) here.

        Raises:
            TypeError, ValueError: a matrix is not symmetric and positive definite, a direction is zero, there is
                not one direction per matrix, or an option is out of range.
        """
        s = torch.as_tensor(covariances, dtype=torch.float64, device="cpu")
        if s.ndim != 3 or s.shape[1:] != (2, 2) or not len(s):
            raise ValueError(f"`covariances` has shape {tuple(s.shape)}; it must be (N, 2, 2) with N >= 1.")
        for number, matrix in enumerate(s):
            if not torch.allclose(matrix, matrix.mT) or not bool((torch.linalg.eigvalsh(matrix) > 0).all()):
                raise ValueError(
                    f"`covariances[{number}]` is {matrix.tolist()}; it must be symmetric with Cxx > 0 and "
                    f"Cxx Cyy > Cxy^2."
                )
        if directions is None:
            _, _, phi = ag.eigen_of_covariance(s)
            w = torch.stack([phi.cos(), phi.sin()], -1)
        else:
            w = torch.as_tensor(directions, dtype=torch.float64, device="cpu")
            if w.shape != (len(s), 2) or not bool((w.norm(dim=-1) > 0).all()):
                raise ValueError(
                    f"`directions` has shape {tuple(w.shape)}; it must be ({len(s)}, 2), no direction being zero."
                )
        distinct("covariances, directions", list(zip(s.tolist(), w.tolist(), strict=True)))
        return cls._of_frames(ag.frame_of_direction(s, w), orders, **options)

    @classmethod
    def for_kernel_size(cls, kernel_size: int, **options) -> "RFBank":
        """The bank that fits the window of a stem.

        The longest standard deviation is at most a fifth of the window and the shortest at least 0.8 pixels. Elongated
        fields have a ratio of 1.5 in windows below 9 pixels and of 2 in larger ones; sizes are a factor of sqrt(2)
        apart.

        Args:
            kernel_size: side of the window in pixels; even sizes become the next odd one, and sizes below 7 become 7.
            **options: arguments of the class, which take precedence.

        Raises:
            TypeError, ValueError: ``kernel_size`` is not an int >= 1, or an option is out of range.
        """
        size = max(7, positive_int("kernel_size", kernel_size) | 1)
        ratio = 1.5 if size < 9 else 2.0
        highest, lowest = size / 5 / ratio**0.5, 0.8 * ratio**0.5
        count = max(1, 1 + math.floor(math.log(highest / lowest, 2**0.5) + 1e-9))
        sigmas = [highest / 2 ** (0.5 * i) for i in reversed(range(count))]
        return cls(**{"sigmas": sigmas, "ratios": (1.0, ratio), "kernel_size": size, **options})

    @classmethod
    def _of_frames(
        cls, frames: Tensor, orders: int | Iterable[ag.Order], *, learn: Sequence[str] = (), **sampling
    ) -> "RFBank":
        """A bank of frames (N, 2, 2); the other arguments are those of ``_finish``."""
        self = cls.__new__(cls)
        FixedNumbers.__init__(self)
        self._index = ()
        self._finish(frames, orders, learn, **sampling)
        return self

    def _finish(
        self,
        frames: Tensor,
        orders: int | Iterable[ag.Order],
        learn: Sequence[str],
        generators: list[Tensor] | None = None,
        bounds: tuple[float, float] | None = None,
        *,
        kernel_size: int | None = None,
        truncate: float = 3.0,
        discretization: str = "sampled",
        normalize: str = "affine",
        zero_dc: bool = True,
    ) -> None:
        """The part that all constructors share: check the options, and store them and the fields."""
        one_of("discretization", discretization, ag.DISCRETIZATIONS)
        one_of("normalize", normalize, NORMALIZATIONS)
        learn = (learn,) if isinstance(learn, str) else tuple(dict.fromkeys(entries("learn", learn)))
        for name in learn:
            one_of("learn", name, LEARNABLE)
        if "frame" in learn and len(learn) > 1:
            raise ValueError(f"`learn` is {learn}; 'frame' is all of a field, and stands alone.")
        if generators is None and learn not in ((), ("frame",)):
            raise ValueError(f"`learn` is {learn}; a bank made of matrices can learn ('frame',) or nothing.")
        self.orders = derivative_orders(orders)
        self.discretization, self.normalize, self.learn = discretization, normalize, learn
        self.zero_dc = flag("zero_dc", zero_dc)
        self.truncate = finite_number("truncate", truncate)
        self.kernel_size = window_size(frames, kernel_size, truncate)
        check_sampling(frames, self.orders, self.kernel_size, discretization)
        self.bounds = None if bounds is None else sigma_bounds(bounds, frames)
        if bounds is not None and "sigma" not in learn:
            raise ValueError(
                f"`bounds` is {bounds}, which limits a learned sigma, and `learn` is {learn}; give learn=('sigma',), or leave "
                f"`bounds` out."
            )
        if learn and "frame" not in learn and generators is not None:
            sigma, ratio, angle = generators
            self._store("log_sigma", self._unbounded(sigma), learned="sigma" in learn)
            self._store("log_ratio", ratio.log(), learned="ratio" in learn)
            self._store("angle", angle, learned="angle" in learn)
        elif learn:
            self._store("frame", frames, learned=True)
        else:
            # Checkpoints need neither: the arguments define both. The kernels are built in float64, and only the result
            # is rounded.
            self._store("frame", frames, learned=False)
            self._store("frozen", self._build(frames), learned=False)

    def _store(self, name: str, value: Tensor, learned: bool) -> None:
        """Store a tensor, as a parameter if it is learned, else as a buffer left out of checkpoints."""
        if learned:
            setattr(self, name, nn.Parameter(in_default_precision(value)))
        else:
            self.fix(name, value)

    def description(self) -> dict[str, Any]:
        """The numbers that are not learned, and what else the kernels depend on."""
        names = ("orders", "kernel_size", "discretization", "normalize", "zero_dc", "learn", "bounds")
        fixed = {_ARGUMENTS[name]: value for name, value in super().description().items() if name != "frozen"}
        return {name: getattr(self, name) for name in names} | fixed

    def _unbounded(self, sigma: Tensor) -> Tensor:
        """The unlimited numbers that stand for sigmas: logarithms, or logits of the position between the bounds."""
        if self.bounds is None:
            return sigma.log()
        low, high = (math.log(b) for b in self.bounds)
        return torch.logit((sigma.log() - low) / (high - low))

    def __len__(self) -> int:
        """Number of kernels: fields times orders."""
        return self.fields * len(self.orders)

    @property
    def fields(self) -> int:
        """Number of fields, each of which is differentiated by all orders."""
        return len(self._index[0]) if hasattr(self, "log_sigma") else len(self.frame)

    def frames(self) -> Tensor:
        """Frames F (fields, 2, 2), float32 or float64: scaled derivative directions as columns; covariance F F^T."""
        if not hasattr(self, "log_sigma"):
            return _at_least_float32(self.frame)
        i, j, k = self._index
        log_sigma = _at_least_float32(self.log_sigma)
        if self.bounds is not None:
            low, high = (math.log(b) for b in self.bounds)
            log_sigma = low + (high - low) * log_sigma.sigmoid()
        sigma, half_log_ratio = log_sigma[list(i)], _at_least_float32(self.log_ratio)[list(j)] / 2
        phi = _at_least_float32(self.angle)[list(k)]
        return ag.frame_of_eigen((sigma + half_log_ratio).exp(), (sigma - half_log_ratio).exp(), phi)

    def covariances(self) -> Tensor:
        """Covariances of the fields, (fields, 2, 2), in pixels squared."""
        return ag.covariance_of(self.frames())

    def kernels(self) -> Tensor:
        """Convolution kernels (len(bank), k, k), float32 or float64; the orders of a field are next to each other."""
        return _at_least_float32(self.frozen) if not self.learn else self._build(self.frames())

    def _build(self, frames: Tensor) -> Tensor:
        """The kernels of ``frames``, with their sums and their norms as the options ask."""
        half = self.kernel_size // 2
        with without_autocast(frames):
            kernels = ag.affine_kernels(frames, [(0, 0), *self.orders], half, self.discretization)
            smooth, kernels = kernels[:, :1], kernels[:, 1:]
            if self.zero_dc:
                derivative = [float(m + n > 0) for m, n in self.orders]
                mass = kernels.sum((-2, -1), keepdim=True) / smooth.sum((-2, -1), keepdim=True)
                kernels = kernels - kernels.new_tensor(derivative)[:, None, None] * mass * smooth
            if self.normalize == "l1":
                kernels = kernels / kernels.new_tensor([ag.l1_norm(o) for o in self.orders])[:, None, None]
            if self.normalize == "none":
                lengths = frames.norm(dim=-2)
                m, n = (kernels.new_tensor([o[axis] for o in self.orders]) for axis in (0, 1))
                kernels = kernels / (lengths[:, :1] ** m * lengths[:, 1:] ** n)[..., None, None]
        return kernels.flatten(0, 1)

    def table(self) -> dict[str, list]:
        """The kernels as columns of equal length.

        ``sigma`` (pixels), ``ratio`` and ``phi`` (radians, the direction of the longer axis) describe the covariance;
        ``m`` and ``n`` are the orders.
        """
        sigma1, sigma2, phi = ag.eigen_of_covariance(self.covariances().detach())
        columns = dict(sigma=(sigma1 * sigma2).sqrt(), ratio=sigma1 / sigma2, phi=phi)
        each = {name: [v for v in values.tolist() for _ in self.orders] for name, values in columns.items()}
        return {**each, "m": [m for m, _ in self.orders] * self.fields, "n": [n for _, n in self.orders] * self.fields}

    def transform(self, matrix: Tensor | Sequence) -> "RFBank":
        """The bank that responds to a transformed image as this one responds to the original.

        For the image f(A^-1 x), its response at the point A p is the response of this bank at p for the image f(x).
        Frames F become A F, and covariances S become A S A^T.

        Args:
            matrix: A, 2x2 and invertible, acting on (x, y).

        Returns:
            A bank with as large a window as ``truncate`` asks for, on this bank's device and in its precision. It learns its
            frames if this bank learns anything.

        Raises:
            ValueError: the matrix is not 2x2, or it is singular.
        """
        a = torch.as_tensor(matrix, dtype=torch.float64, device="cpu")
        if a.shape != (2, 2) or not bool(torch.linalg.det(a).abs() > 1e-12):
            raise ValueError(f"`matrix` is {a.tolist()}; it must be an invertible 2x2 matrix.")
        like = next(chain(self.parameters(), self.buffers()))
        frames = a @ self.frames().detach().cpu().double()
        bank = self._of_frames(
            frames,
            self.orders,
            truncate=self.truncate,
            discretization=self.discretization,
            normalize=self.normalize,
            zero_dc=self.zero_dc,
            learn=("frame",) if self.learn else (),
        ).to(like)
        if self.learn:
            bank.frame = nn.Parameter(frames.to(like))  # in this bank's precision, which may be float64
        return bank

    def extra_repr(self) -> str:
        learned = f", learn={self.learn}" if self.learn else ""
        return f"{len(self)} kernels, kernel_size={self.kernel_size}, {self.discretization}, {self.normalize}{learned}"


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
