"""Runge-Kutta methods as tables of numbers.

A step from `y` of size `h` has slopes `k_i = f(t + c_i h, y + h sum_j a_ij k_j)` and ends at `y + h sum_i b_i k_i`; the
error estimate is `h sum_i e_i k_i`. In every adaptive method here the last stage sits at the end of the step, and its
slope opens the next step.

Notes:
    `dopri5` is Dormand and Prince's method with Shampine's (1986) error weights, last one -1/60, as in torchdiffeq;
    `dopri5_classic` has the textbook's, last one -1/40. They accept and reject other steps.
    `heun21` opens the next step with the slope at the Euler predictor, as torchdiffeq's `adaptive_heun` does: still of
    second order, with one evaluation a step.
    `bosh3` and `heun21` have cubic dense output. torchdiffeq's has an error of second order there (its middle is
    `y + h/2 k_2`, and `y + h/2 k_1`), which is felt wherever it overshoots an output time.
    `rk4` is the 3/8 rule, as in torchdiffeq.

References:
    J. Dormand, P. Prince, A family of embedded Runge-Kutta formulae (1980), and High order embedded Runge-Kutta
    formulae (1981). L. Shampine, Some practical Runge-Kutta formulas (1986). P. Bogacki, L. Shampine, A 3(2) pair of
    Runge-Kutta formulas (1989). Ch. Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column
    simplifying assumption (2011).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """One method. `a[i]` has the i weights of stage i; `e` and `mid` are empty for methods without error estimate.

    `mid`: weights of the state at the middle of a step, for the quartic dense output.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...] = ()
    mid: tuple[float, ...] = ()

    @property
    def stages(self) -> int:
        return len(self.c)

    @property
    def adaptive(self) -> bool:
        return bool(self.e)

    @property
    def ends_in_stage(self) -> bool:
        """Whether the last stage is evaluated at the end state itself, which is then known without another sum."""
        return self.b[-1] == 0 and self.b[:-1] == self.a[-1]

    def dense(self, x: float) -> tuple[float, ...]:
        """Weights `w_j(x)` of the dense output `y(t + x h) = y + h sum_j w_j(x) k_j`, a quartic in x.

        It goes through both ends with their slopes and through the middle.
        """
        last = self.stages - 1
        weights = []
        for j, (b, m) in enumerate(zip(self.b, self.mid, strict=True)):
            first, final = float(j == 0), float(j == last)
            quartic = 2 * (final - first) - 8 * b + 16 * m
            cubic = 5 * first - 3 * final + 14 * b - 32 * m
            square = final - 4 * first - 5 * b + 16 * m
            weights.append(x * (first + x * (square + x * (cubic + x * quartic))))
        return tuple(weights)


def _difference(b: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(x - y for x, y in zip(b, other, strict=True))


def _hermite_middle(b: tuple[float, ...]) -> tuple[float, ...]:
    """The middle of the cubic through both ends with their slopes."""
    edges = [1 / 8, *[0.0] * (len(b) - 2), -1 / 8]
    return tuple(weight / 2 + edge for weight, edge in zip(b, edges, strict=True))


_DP5_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_DP5_B = (*_DP5_A[-1], 0.0)
_DP5_MID = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)
_DP5_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_SHAMPINE = (1951 / 21600, 0.0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60)
_CLASSIC = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

DOPRI5 = Tableau("dopri5", 5, _DP5_C, _DP5_A, _DP5_B, _difference(_DP5_B, _SHAMPINE), _DP5_MID)
DOPRI5_CLASSIC = Tableau("dopri5_classic", 5, _DP5_C, _DP5_A, _DP5_B, _CLASSIC, _DP5_MID)

_TSIT5_A = (
    (),
    (0.161,),
    (-0.008480655492356989, 0.335480655492357),
    (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
    (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
    (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
    (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
)
TSIT5 = Tableau(
    "tsit5",
    5,
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    _TSIT5_A,
    (*_TSIT5_A[-1], 0.0),
    (
        0.00178001105222577714,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1 / 66,
    ),
    # Tsitouras' own interpolant, a quartic with these ends and slopes, at one half.
    (
        -1.0530884977290216 / 2 * (0.5 - 1.3299890189751412) * (0.25 - 1.4364028541716351 / 2 + 0.7139816917074209),
        0.1017 / 4 * (0.25 - 2.1966568338249754 / 2 + 1.2949852507374631),
        2.490627285651252793 / 4 * (0.25 - 2.38535645472061657 / 2 + 1.57803468208092486),
        -16.54810288924490272 / 4 * (0.5 - 1.21712927295533244) * (0.5 - 0.61620406037800089),
        47.37952196281928122 / 4 * (0.5 - 1.203071208372362603) * (0.5 - 0.658047292653547382),
        -34.87065786149660974 / 4 * (0.5 - 1.2) * (0.5 - 2 / 3),
        2.5 / 4 * (0.5 - 1.0) * (0.5 - 0.6),
    ),
)

_BS_B = (2 / 9, 1 / 3, 4 / 9, 0.0)
BOSH3 = Tableau(
    "bosh3",
    3,
    (0.0, 1 / 2, 3 / 4, 1.0),
    ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    _BS_B,
    _difference(_BS_B, (7 / 24, 1 / 4, 1 / 3, 1 / 8)),
    _hermite_middle(_BS_B),
)

HEUN21 = Tableau("heun21", 2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5), (0.5, -0.5), _hermite_middle((0.5, 0.5)))

_DP8_B = (
    14005451 / 335480064,
    *(0.0,) * 4,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
)
_DP8_LOWER = (
    13451932 / 455176623,
    *(0.0,) * 4,
    -808719846 / 976000145,
    1757004468 / 5645159321,
    656045339 / 265891186,
    -3867574721 / 1518517206,
    465885868 / 322736535,
    53011238 / 667516719,
    2 / 45,
    0.0,
    0.0,
)
_DP8_A = (
    (),
    (1 / 18,),
    (1 / 48, 1 / 16),
    (1 / 32, 0.0, 3 / 32),
    (5 / 16, 0.0, -75 / 64, 75 / 64),
    (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
    (29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
    (
        16016141 / 946692911,
        0.0,
        0.0,
        61564180 / 158732637,
        22789713 / 633445777,
        545815736 / 2771057229,
        -180193667 / 1043307555,
    ),
    (
        39632708 / 573591083,
        0.0,
        0.0,
        -433636366 / 683701615,
        -421739975 / 2616292301,
        100302831 / 723423059,
        790204164 / 839813087,
        800635310 / 3783071287,
    ),
    (
        246121993 / 1340847787,
        0.0,
        0.0,
        -37695042795 / 15268766246,
        -309121744 / 1061227803,
        -12992083 / 490766935,
        6005943493 / 2108947869,
        393006217 / 1396673457,
        123872331 / 1001029789,
    ),
    (
        -1028468189 / 846180014,
        0.0,
        0.0,
        8478235783 / 508512852,
        1311729495 / 1432422823,
        -10304129995 / 1701304382,
        -48777925059 / 3047939560,
        15336726248 / 1032824649,
        -45442868181 / 3398467696,
        3065993473 / 597172653,
    ),
    (
        185892177 / 718116043,
        0.0,
        0.0,
        -3185094517 / 667107341,
        -477755414 / 1098053517,
        -703635378 / 230739211,
        5731566787 / 1027545527,
        5232866602 / 850066563,
        -4093664535 / 808688257,
        3962137247 / 1805957418,
        65686358 / 487910083,
    ),
    (
        403863854 / 491063109,
        0.0,
        0.0,
        -5068492393 / 434740067,
        -411421997 / 543043805,
        652783627 / 914296604,
        11173962825 / 925320556,
        -13158990841 / 6184727034,
        3936647629 / 1978049680,
        -160528059 / 685178525,
        248638103 / 1413531060,
        0.0,
    ),
    _DP8_B,
)
DOPRI8 = Tableau(
    "dopri8",
    8,
    (
        0.0,
        1 / 18,
        1 / 12,
        1 / 8,
        5 / 16,
        3 / 8,
        59 / 400,
        93 / 200,
        5490023248 / 9719169821,
        13 / 20,
        1201146811 / 1299019798,
        1.0,
        1.0,
        1.0,
    ),
    _DP8_A,
    (*_DP8_B, 0.0),
    _difference((*_DP8_B, 0.0), _DP8_LOWER),
    (
        0.04103130360739393,
        0.0,
        0.0,
        0.0,
        0.0,
        0.05100562801991382,
        0.2388930677412202,
        0.3096870143996103,
        -0.2172325471755352,
        0.07833405679331928,
        -0.0018614369715579948,
        0.007072844202678841,
        0.00690847373200576,
        -0.013838404349047373,
    ),
)

EULER = Tableau("euler", 1, (0.0,), ((),), (1.0,))
MIDPOINT = Tableau("midpoint", 2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
RK4 = Tableau(
    "rk4",
    4,
    (0.0, 1 / 3, 2 / 3, 1.0),
    ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
)

METHODS: dict[str, Tableau] = {
    tableau.name: tableau for tableau in (DOPRI5, DOPRI5_CLASSIC, TSIT5, BOSH3, HEUN21, DOPRI8, EULER, MIDPOINT, RK4)
}
