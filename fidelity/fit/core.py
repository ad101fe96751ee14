"""Hierarchical robust fit on log error: parameters of many places at once, each leaning on its relatives.

A place is a device under a software stack. The logarithm of each free parameter at a place is

    log value = log prior(place) + sd(place) * (u[stack] + u[stack, memory] + u[stack, architecture] + u[stack, device])

with independent Gaussian effects u, so that the parameters of places are jointly Gaussian: two places of a stack share
the stack's effect, two of an architecture that as well; between versions of one software (`llama.cpp-cuda@2024`) all of
these are correlated, and not the same. Points are explained by physics that is not linear in the parameters; SciPy's
trust-region least squares (Branch, Coleman and Li, SIAM J. Sci. Comput. 1999) finds the mode, and the posterior around
it is that of the linearised model in its dual form (Rasmussen and Williams, Gaussian Processes for Machine Learning,
2006, eq. 2.25), whose matrix is of the size of the number of points. Residuals are Student's t (Lange, Little and
Taylor, JASA 1989): an outlier loses its weight. How much of the prior's variance sits on which level, and how noisy the
points are, follows from the evidence of the very points fitted (MacKay, Neural Computation 1992), held close to the
given by a hyperprior.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from afterwatt.hwprofiles.stacks import software_of

Floats = NDArray[np.float64]

DEGREES: Final = 4.0
"""Degrees of freedom of the residuals: about one in twenty published figures is off by more than three times the usual
error (a wrong flag, another version), which a normal distribution does not know."""
LOG_STEP: Final = 0.01
MOST_STEPS: Final = 60
FIRST_STEPS: Final = 6
LEARNING_ROUNDS: Final = 3
TOLERANCE: Final = 1e-5
"""Of the log posterior, some hundreds in the fits that ship: a thousandth of what would be noticed."""
NEAR: Final = 1e-3
"""Of the length of all parameters, each in its own standard deviations."""
_SAME_LEVELS: Final = 0.1  # of the logarithm of a variance
_SMALLEST_SHARE: Final = 1e-3


class StackPlace(NamedTuple):
    """Where parameters hold: a device, of an architecture and with a kind of memory (hbm, gddr), under a stack."""

    stack: str
    memory: str
    architecture: str
    device: str


class Belief(NamedTuple):
    """What is believed of a parameter at a place before any point: log-normal, clipped to its bounds."""

    log_value: float
    log_sd: float
    least: float
    most: float


class PointReading(NamedTuple):
    """A measured figure and how it follows from parameters.

    Attributes:
        place: where it was measured.
        names: parameters that it may depend on.
        log_measured: logarithm of the figure.
        log_predicted: gives the same of the prediction under values of `names`.
        noise: its error relative to that of a well-described point (1); more where conditions had to be assumed.
        source: who measured it.
    """

    place: StackPlace
    names: tuple[str, ...]
    log_measured: float
    log_predicted: Callable[[Mapping[str, float]], float]
    noise: float
    source: str


class Levels(NamedTuple):
    """Variances, as shares of the prior's: of the effects of a stack and all below it; and of log errors.

    Attributes:
        stack, memory, architecture, device: what places have in common that share these; they add up to about 1.
        source: variance of what all figures of one source on one device have in common (builds, clocks, methods).
        noise: variance of what is left.
    """

    stack: float
    memory: float
    architecture: float
    device: float
    source: float
    noise: float


EFFECTS: Final = 4
LEVELS: Final = Levels(stack=0.4, memory=0.2, architecture=0.2, device=0.2, source=0.05**2, noise=0.08**2)
"""Two fifths of what stacks' parameters differ by is the software alone; the rest is how it suits the card, in equal
parts its memory (HBM wants more bytes in flight than most kernels ask for), its architecture, and what is its own.
Sources of one set-up differ by up to 30 % (papers.md 3.3), a standard deviation of a tenth, split between the two."""
_HYPER_SD: Final = 0.25
BETWEEN_VERSIONS: Final = 0.85
"""Correlation of what versions of one software, years apart, reach on a card (assumption): kernels are replaced one by
one, and the card, its driver and most of the code stay."""

Prior = Callable[[StackPlace], Mapping[str, Belief]]


class Posterior(NamedTuple):
    """Parameters of a place after the fit: means and standard deviations of logarithms, clipped to the bounds."""

    log_value: Mapping[str, float]
    log_sd: Mapping[str, float]

    def values(self) -> dict[str, float]:
        """Return the parameters themselves."""
        return {name: float(np.exp(value)) for name, value in self.log_value.items()}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The outcome for the points of one stack; places without points can be asked for, too.

    Attributes:
        prior: beliefs before any point.
        places, names: of the points fitted.
        levels: variances in force.
        jacobian: d log prediction / d log parameter: (points, places * names).
        gain: what multiplies covariances with the points' places to give shifts.
        inverse: inverse covariance of the linearised points.
        residuals: log(measured / predicted) in sample; weights: of the points, 1 for what fits.
    """

    prior: Prior
    places: tuple[StackPlace, ...]
    names: tuple[str, ...]
    levels: Levels
    jacobian: Floats
    gain: Floats
    inverse: Floats
    residuals: Floats
    weights: Floats

    def at(self, place: StackPlace) -> Posterior:
        """Return what is known of a place's parameters now: all that its prior names."""
        beliefs = self.prior(place)
        means = {name: belief.log_value for name, belief in beliefs.items()}
        sds = {name: belief.log_sd for name, belief in beliefs.items()}
        sight = [name for name in self.names if name in beliefs]
        if self.places and sight:
            total = sum(self.levels[:EFFECTS])
            cross = self._cross(place, beliefs, sight)
            shift = cross @ self.gain
            seen = cross @ self.jacobian.T
            shrunk = np.einsum("ij,jk,ik->i", seen, self.inverse, seen)
            for row, name in enumerate(sight):
                means[name] += float(shift[row])
                variance = total * beliefs[name].log_sd ** 2 - float(shrunk[row])
                sds[name] = float(np.sqrt(max(variance, 0.0)))
        clipped = {name: float(np.clip(means[name], *_log_bounds(beliefs[name]))) for name in means}
        return Posterior(clipped, sds)

    def _cross(self, place: StackPlace, beliefs: Mapping[str, Belief], names: Sequence[str]) -> Floats:
        """Covariances of a place's parameters (rows) with those of the points' places (columns)."""
        cross = np.zeros((len(names), len(self.places), len(self.names)))
        for column, other in enumerate(self.places):
            common = _common(self.levels, place, other)
            theirs = self.prior(other)
            for row, name in enumerate(names):
                sd = theirs[name].log_sd if name in theirs else 0.0
                cross[row, column, self.names.index(name)] = common * beliefs[name].log_sd * sd
        result: Floats = cross.reshape(len(names), -1)
        return result


def fit_readings(
    readings: Sequence[PointReading],
    prior: Prior,
    levels: Levels = LEVELS,
    learn: bool = True,
    near: Fit | None = None,
) -> Fit:
    """Fit the parameters of one software's places.

    Args:
        readings: points of one software; the order does not matter.
        prior: beliefs at a place.
        levels: variances to start from.
        learn: whether the variances follow the evidence.
        near: a fit to much the same points, to begin the search at; it ends at the mode all the same.

    Returns:
        The posterior; with no readings, the prior.
    """
    problem = _Problem(readings, prior)
    if not readings:
        nothing = np.zeros(0)
        return Fit(
            prior=prior,
            places=(),
            names=(),
            levels=levels,
            jacobian=np.zeros((0, 0)),
            gain=nothing,
            inverse=np.zeros((0, 0)),
            residuals=nothing,
            weights=nothing,
        )
    start = np.zeros(problem.size)
    if near is not None:
        levels, start = near.levels, problem.shifts(near)
    state = problem.state(start, np.zeros(problem.source_of.shape[1]))
    state = problem.solve(problem.solve(state, levels, squares=True) if near is None else state, levels)
    for _ in range(LEARNING_ROUNDS if learn else 0):
        better = problem.learn(levels, state)
        change = max(abs(np.log(np.array(better) / np.array(levels))))
        levels = better
        state = problem.solve(state, levels)
        if change < _SAME_LEVELS:
            break
    return problem.fit(levels, state)


class _State(NamedTuple):
    """Where a search is.

    Attributes:
        shift: of the places' log parameters; common: what the points of a source have in common.
        residuals: log(measured / predicted) there; slopes: of the log predictions.
    """

    shift: Floats
    common: Floats
    residuals: Floats
    slopes: Floats


class _Problem:
    """The points of a stack laid out as arrays."""

    def __init__(self, readings: Sequence[PointReading], prior: Prior) -> None:
        self.prior = prior
        # Sums depend on the order of their terms in the last bit, which a canonical order takes away.
        self.order = sorted(range(len(readings)), key=lambda at: _sort_key(readings[at]))
        self.readings = [readings[at] for at in self.order]
        self.places = tuple(sorted({reading.place for reading in readings}))
        self.names = tuple(sorted({name for reading in readings for name in reading.names}))
        self.beliefs = [prior(place) for place in self.places]
        self.size = len(self.places) * len(self.names)
        self.measured = np.array([reading.log_measured for reading in self.readings])
        self.noise = np.array([reading.noise for reading in self.readings])
        self.start = np.zeros((len(self.places), len(self.names)))
        self.sd = np.zeros_like(self.start)
        self.bounds = np.zeros((2, *self.start.shape))
        for row, beliefs in enumerate(self.beliefs):
            for column, name in enumerate(self.names):
                if name in beliefs:
                    self.start[row, column], self.sd[row, column] = beliefs[name][:2]
                    self.bounds[:, row, column] = _log_bounds(beliefs[name])
        self.at = [self.places.index(reading.place) for reading in self.readings]
        told = [(reading.source, reading.place.device) for reading in self.readings]
        self.source_of = np.array([[one == other for other in sorted(set(told))] for one in told], dtype=np.float64)
        self.same_source: Floats = self.source_of @ self.source_of.T

    def shifts(self, fit: Fit) -> Floats:
        """Return the shifts of the places' log parameters that a fit amounts to."""
        known = [fit.at(place).log_value for place in self.places]
        logs = np.array([[values.get(name, 0.0) for name in self.names] for values in known])
        return (logs - self.start).ravel()

    # -- physics ---------------------------------------------------------------------------------------------------

    def predict(self, shift: Floats, with_slopes: bool = False) -> tuple[Floats, Floats]:
        """Return log predictions, and with slopes their derivatives by the places' log parameters."""
        logs = np.clip(self.start + shift.reshape(self.start.shape), *self.bounds)
        predicted = np.empty(len(self.readings))
        slopes = np.zeros((len(self.readings), *self.start.shape)) if with_slopes else np.zeros((0, 0, 0))
        for row, reading in enumerate(self.readings):
            place = self.at[row]
            values = {name: float(np.exp(logs[place, self.names.index(name)])) for name in reading.names}
            predicted[row] = reading.log_predicted(values)
            if not with_slopes:
                continue
            for name in reading.names:
                column = self.names.index(name)
                if self.sd[place, column] == 0.0:
                    continue
                top = self.bounds[1, place, column]
                step = LOG_STEP if logs[place, column] + LOG_STEP <= top else -LOG_STEP
                moved = values | {name: values[name] * float(np.exp(step))}
                slopes[row, place, column] = (reading.log_predicted(moved) - predicted[row]) / step
        return predicted, slopes.reshape(len(self.readings), -1)

    # -- statistics ------------------------------------------------------------------------------------------------

    def covariance(self, levels: Levels) -> Floats:
        """Return the prior covariance of the places' parameters, (places * names) squared."""
        blocks = np.array([[_common(levels, one, other) for other in self.places] for one in self.places])
        full = np.einsum("pq,pi,qj,ij->piqj", blocks, self.sd, self.sd, np.eye(len(self.names)))
        result: Floats = full.reshape(self.size, self.size)
        return result

    def scatter(self, levels: Levels, weights: Floats) -> Floats:
        """Return the covariance of the points' errors."""
        result: Floats = levels.source * self.same_source + np.diag(levels.noise * self.noise**2 / weights)
        return result

    def weigh(self, state: _State, levels: Levels) -> Floats:
        """Return Student's weights: near 1 within the usual error, falling with its square beyond."""
        scaled = (state.residuals - self.source_of @ state.common) ** 2 / (levels.noise * self.noise**2)
        result: Floats = (DEGREES + 1.0) / (DEGREES + scaled)
        return np.minimum(result, 1.0)

    def state(self, shift: Floats, common: Floats) -> _State:
        """Linearise at some shifts of the log parameters and effects of the sources."""
        predicted, slopes = self.predict(shift, with_slopes=True)
        return _State(shift, common, self.measured - predicted, slopes)

    def solve(self, state: _State, levels: Levels, squares: bool = False) -> _State:
        """Go to the mode under given variances.

        In coordinates whose prior is standard normal: effects of places, then of sources. The residuals of the points
        are Student's, those of the prior are squared as they are.

        Args:
            state: where to begin.
            levels: the variances.
            squares: a few steps of plain least squares: far from the mode, where Student's loss is flat.
        """
        free = self.sd.ravel() > 0.0
        root = np.zeros((self.size, int(free.sum())))
        root[free] = linalg.cholesky(self.covariance(levels)[np.ix_(free, free)], lower=True)
        of_source = self.source_of * np.sqrt(levels.source)
        scale = np.sqrt(levels.noise) * self.noise
        effects, points = root.shape[1], len(self.readings)

        def errors(at: Floats) -> Floats:
            missed = self.measured - self.predict(root @ at[:effects])[0] - of_source @ at[effects:]
            return np.concatenate([missed / scale, at])

        def slopes(at: Floats) -> Floats:
            moved = np.hstack([self.predict(root @ at[:effects], with_slopes=True)[1] @ root, of_source])
            return np.vstack([-moved / scale[:, np.newaxis], np.eye(len(at))])

        def students(squares: Floats) -> Floats:
            found = np.vstack([squares, np.ones_like(squares), np.zeros_like(squares)])
            far = DEGREES + squares[:points]
            found[:, :points] = (DEGREES + 1.0) * np.array([np.log(far / DEGREES), 1.0 / far, -1.0 / far**2])
            return found

        whitened = linalg.solve_triangular(root[free], state.shift[free], lower=True)
        start = np.concatenate([whitened, state.common / np.sqrt(levels.source)])
        loss, steps = ("linear", FIRST_STEPS) if squares else (students, MOST_STEPS)
        found = optimize.least_squares(errors, start, slopes, loss=loss, ftol=TOLERANCE, xtol=NEAR, max_nfev=steps)
        return self.state(root @ found.x[:effects], np.sqrt(levels.source) * found.x[effects:])

    def learn(self, levels: Levels, state: _State) -> Levels:
        """Return the variances under which the linearised points are most likely, near the given ones."""
        slopes = state.slopes
        target = state.residuals + slopes @ state.shift
        shares = [
            slopes @ self.covariance(Levels(*np.eye(len(Levels._fields))[level].tolist())) @ slopes.T
            for level in range(EFFECTS)
        ]
        weights = self.weigh(state, levels)
        parts: list[Floats] = [*shares, self.same_source, np.diag(self.noise**2 / weights)]
        stacked = np.array(parts)
        start = np.log(np.array(LEVELS))

        def surprise(logs: Floats) -> tuple[float, Floats]:
            sizes = np.exp(logs)
            matrix = np.einsum("k,kij->ij", sizes, stacked)
            factor = linalg.cho_factor(matrix, lower=True)
            solved = linalg.cho_solve(factor, target)
            inverse = linalg.cho_solve(factor, np.eye(len(target)))
            away = (logs - start) / (2.0 * _HYPER_SD)  # variances: twice the logarithm of a standard deviation
            value = 0.5 * target @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
            slope = np.array(
                [
                    0.5 * size * (np.einsum("ij,ij->", inverse, part) - solved @ part @ solved)
                    for size, part in zip(sizes, parts, strict=True)
                ]
            )
            return float(value), slope + away / (2.0 * _HYPER_SD)

        found = optimize.minimize(surprise, np.log(np.array(levels)), jac=True, method="L-BFGS-B")
        sizes = np.exp(found.x)
        return Levels(*np.maximum(sizes[:EFFECTS], _SMALLEST_SHARE).tolist(), *sizes[EFFECTS:].tolist())

    def fit(self, levels: Levels, state: _State) -> Fit:
        """Write the outcome down, points in the order in which they were given."""
        weights = self.weigh(state, levels)
        slopes = state.slopes
        inverse = linalg.inv(slopes @ self.covariance(levels) @ slopes.T + self.scatter(levels, weights))
        gain = slopes.T @ (inverse @ (state.residuals + slopes @ state.shift))
        back = np.argsort(self.order)
        residuals = state.residuals[back]
        return Fit(
            prior=self.prior,
            places=self.places,
            names=self.names,
            levels=levels,
            jacobian=slopes,
            gain=gain,
            inverse=inverse,
            residuals=residuals,
            weights=weights[back],
        )


def _common(levels: Levels, one: StackPlace, other: StackPlace) -> float:
    """Return the share of the prior's variance that two places have in common."""
    if software_of(one.stack) != software_of(other.stack):
        return 0.0
    return (1.0 if one.stack == other.stack else BETWEEN_VERSIONS) * (
        levels.stack
        + levels.memory * (one.memory == other.memory)
        + levels.architecture * (one.architecture == other.architecture)
        + levels.device * (one.device == other.device)
    )


def _log_bounds(belief: Belief) -> tuple[float, float]:
    return float(np.log(max(belief.least, 1e-300))), float(np.log(belief.most))


def _sort_key(reading: PointReading) -> tuple[StackPlace, str, tuple[str, ...], float, float]:
    return reading.place, reading.source, reading.names, reading.log_measured, reading.noise
