from itertools import product

import numpy as np
import pytest
from scipy.stats import wilcoxon

from hf_tsdyn.comparisons import average_ranks, holm, is_larger_better, losses, paired_tests, wins_matrix
from hf_tsdyn.results import ResultRow

INFINITE = float("inf")


def rows_of(metric="smape", horizon=64, **values):
    """Rows of models by name, a value a system; None where there is none."""
    return [
        ResultRow(model, f"system {place}", horizon, metric, value, 4, 0)
        for model, found in values.items()
        for place, value in enumerate(found)
        if value is not None
    ]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("smape", False), ("state_space_divergence@tail", False), ("vpt_lyapunov@0.4", True), ("vpt_periods@0.2", True)],
)
def test_the_better_end_of_a_metric_is_known_whatever_its_threshold_or_part(metric, expected):
    assert is_larger_better(metric) is expected


@pytest.mark.parametrize(
    "metric", ["coverage@0.8", "interval_width@0.8", "vpt_saturated@0.4", "lyapunov_max", "made up"]
)
def test_a_metric_without_a_better_end_is_refused(metric):
    rows = rows_of(metric, a=[1.0], b=[2.0])
    for compare in (wins_matrix, average_ranks, paired_tests):
        with pytest.raises(ValueError, match=f"found '{metric}'; choose another"):
            compare(rows, metric, 64)


def test_wins_are_shares_of_systems_and_ties_count_half():
    wins = wins_matrix(rows_of(a=[1, 1, 3, 5], b=[2, 1, 4, 4], c=[9, 9, 9, 9]), "smape", 64)
    assert wins.models == ("a", "b", "c")
    assert wins.num_systems == 4
    np.testing.assert_array_equal(wins.shares, [[0.5, 0.625, 1.0], [0.375, 0.5, 1.0], [0.0, 0.0, 0.5]])


def test_longer_valid_times_win():
    rows = rows_of("vpt_lyapunov@0.4", a=[3.0, 2.0], b=[1.0, 0.5])
    assert wins_matrix(rows, "vpt_lyapunov@0.4", 64).shares[0, 1] == 1.0
    assert average_ranks(rows, "vpt_lyapunov@0.4", 64) == {"a": 1.0, "b": 2.0}
    assert paired_tests(rows, "vpt_lyapunov@0.4", 64)[0].effect == 1.0


def test_ranks_are_means_over_systems_and_ties_share_theirs():
    rows = rows_of(a=[1, 1, 1], b=[2, 1, 5], c=[3, 7, 4])
    assert average_ranks(rows, "smape", 64) == pytest.approx({"a": 3.5 / 3, "b": 6.5 / 3, "c": 8 / 3})


def test_failures_and_missing_values_are_the_worst_and_tie_with_each_other():
    rows = rows_of(a=[1.0, INFINITE, 1e300], b=[INFINITE, None, INFINITE], c=[2.0, 3.0, None])
    found = losses(rows, "smape", 64).values
    np.testing.assert_array_equal(found, [[1, INFINITE, 1e300], [INFINITE] * 3, [2, 3, INFINITE]])
    assert average_ranks(rows, "smape", 64) == pytest.approx({"a": 4.5 / 3, "b": 8 / 3, "c": 5.5 / 3})
    assert wins_matrix(rows, "smape", 64).shares[0, 1] == pytest.approx(2.5 / 3)


def test_a_missing_valid_time_is_no_win():
    rows = rows_of("vpt_periods@0.4", a=[0.1, 0.1], b=[9.0, None])
    assert wins_matrix(rows, "vpt_periods@0.4", 64).shares[0, 1] == 0.5


def test_one_that_is_better_on_all_of_ten_systems_has_the_exact_p_value_of_two_in_1024():
    worse = np.arange(1.0, 11.0)
    (test,) = paired_tests(rows_of(a=worse - np.linspace(0.1, 0.9, 10), b=worse), "smape", 64)
    assert test.p_value == pytest.approx(2 / 2**10)
    assert (test.model, test.other, test.effect, test.num_systems) == ("a", "b", 1.0, 10)


def test_the_effect_is_the_difference_of_rank_sums_over_their_total():
    differences = np.array([1.0, -2.0, 3.0, 4.0, -5.0])  # ranks 1 to 5: 8 for the first, 7 against it
    (test,) = paired_tests(rows_of(a=np.zeros(5), b=differences), "smape", 64)
    assert test.effect == pytest.approx(1 / 15)
    assert test.p_value == pytest.approx(wilcoxon(differences).pvalue)
    (tied,) = paired_tests(rows_of(a=np.zeros(6), b=[0.0, *differences]), "smape", 64)
    assert tied.effect == pytest.approx((11 - 9) / 21)  # ranks 2 to 6, the tie keeps rank 1
    flips = np.array(list(product((-1, 1), repeat=5))) @ np.arange(2, 7)
    assert tied.p_value == pytest.approx(np.mean(np.abs(flips) >= 11 - 9))


def test_a_failure_has_the_weight_of_the_largest_difference_not_more():
    finite = [1.0, -2.0, 3.0, -4.0, 5.0, 6.0, 900.0]
    results = [
        paired_tests(rows_of(a=np.zeros(7), b=[*finite[:-1], last]), "smape", 64)[0] for last in (900.0, INFINITE)
    ]
    assert results[0] == results[1]


def test_equal_models_and_common_failures_have_p_1_and_no_effect():
    (test,) = paired_tests(rows_of(a=[1.0, 2.0, INFINITE], b=[1.0, 2.0, INFINITE]), "smape", 64)
    assert (test.p_value, test.adjusted, test.effect) == (1.0, 1.0, 0.0)


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_decreases():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]


def test_the_correction_is_over_all_pairs_shown():
    rng = np.random.default_rng(0)
    rows = rows_of(**{name: rng.normal(shift, 1, 12) for name, shift in {"a": 0, "b": 0.6, "c": 2}.items()})
    tests = paired_tests(rows, "smape", 64)
    assert [(test.model, test.other) for test in tests] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [test.adjusted for test in tests] == holm([test.p_value for test in tests])
    alone = paired_tests(rows, "smape", 64, models=["a", "c"])[0]
    assert alone.adjusted == alone.p_value == tests[1].p_value < tests[1].adjusted
    assert all(test.adjusted == test.p_value for test in paired_tests(rows, "smape", 64, correction="none"))
    with pytest.raises(ValueError, match="found 'bonferroni'"):
        paired_tests(rows, "smape", 64, correction="bonferroni")


def test_models_are_taken_in_the_order_asked_for_and_others_do_not_count():
    rows = rows_of(a=[1.0], b=[2.0], c=[0.0])
    assert list(average_ranks(rows, "smape", 64, models=["b", "a"]).items()) == [("b", 2.0), ("a", 1.0)]


def test_what_was_not_evaluated_or_twice_is_an_error_that_names_it():
    rows = rows_of(a=[1.0], b=[2.0])
    with pytest.raises(ValueError, match=r"values of 'mase' at horizon 64, found none of any model"):
        wins_matrix(rows, "mase", 64)
    with pytest.raises(ValueError, match=r"at horizon 65, found none of \['a'\]"):
        wins_matrix(rows, "smape", 65, models=["a"])
    with pytest.raises(ValueError, match=r"found two of 'a' on 'system 0' \(smape @ 64\)"):
        wins_matrix([*rows, rows[0]], "smape", 64)
