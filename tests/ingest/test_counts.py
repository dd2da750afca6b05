from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cellplm.errors import CountsError, InputError
from cellplm.ingest.counts import fault_of
from cellplm.ingest.source import Block
from tests.ingest.make import CountCheck, block_of, dense, make_counts, make_source

DTYPES = [np.uint8, np.int16, np.int32, np.int64, np.uint64, np.float16, np.float32, np.float64]


@settings(deadline=None)
@given(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 200)),
    st.sampled_from(DTYPES),
)
def test_counts_pass_unchanged_and_zeros_go(
    counts: NDArray[np.int64], dtype: type[np.generic]
) -> None:
    check = CountCheck(make_source(counts))
    out = check.add(block_of(counts.astype(dtype)))
    assert out.data.dtype == np.uint32
    assert (out.data > 0).all()
    np.testing.assert_array_equal(dense(iter([out]), counts.shape), counts)
    assert check.max_value == counts.max()
    assert check.n_rounded == 0


def test_near_integers_are_rounded_and_counted() -> None:
    counts = np.array([[0.999999999999999, 3.00000000000001], [2.0, 1e-9]])
    check = CountCheck(make_source(counts))
    out = check.add(block_of(counts))
    assert out.data.tolist() == [1, 3, 2]
    assert check.n_rounded == 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.3466, "value 0.3466 at cell 'cell2', feature 'CD3E'.*log-normalised"),
        (-1.0, "value -1 at cell 'cell2', feature 'CD3E'.*negative"),
        (np.nan, "value nan at cell 'cell2'.*not a number"),
        (np.inf, "value inf at cell 'cell2'.*infinite"),
        (2.0**32, "value 4.29497e\\+09 at cell 'cell2'"),
        (250.5, "250.5.*normalised or estimated"),
    ],
)
def test_a_value_that_is_no_count_is_named_with_its_place(value: float, words: str) -> None:
    counts = make_counts(4, 3).astype(np.float64)
    counts[2, 1] = value
    source = make_source(counts, var_names=["LYZ", "CD3E", "NKG7"], looked_in=("X: here",))
    with pytest.raises(CountsError, match=words) as caught:
        CountCheck(source).add(block_of(counts))
    message = str(caught.value)
    assert "Looked in: X: here" in message
    assert "--counts" in message
    assert "\n" not in message


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint64])
def test_the_bound_of_32_bits_holds_in_every_type(dtype: type[np.generic]) -> None:
    counts = np.array([[1, 2**32]]).astype(dtype)
    with pytest.raises(CountsError, match="feature 'g1'"):
        CountCheck(make_source(counts)).add(block_of(counts))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_negative_integers_are_refused(dtype: type[np.generic]) -> None:
    counts = np.array([[1, -2]], dtype=dtype)
    with pytest.raises(CountsError, match="value -2"):
        CountCheck(make_source(counts)).add(block_of(counts))


def test_tpm_and_log_normalised_values_are_recognised_by_their_sums() -> None:
    counts = make_counts(6, 40) + 1.0
    shares = counts / counts.sum(axis=1, keepdims=True)
    for values, words in [(shares * 1e6, "TPM"), (np.log1p(shares * 1e4), "10000 after expm1")]:
        with pytest.raises(CountsError, match=words):
            CountCheck(make_source(values)).add(block_of(values))


def test_the_place_of_a_fault_is_right_in_blocks_along_features() -> None:
    counts = np.array([[0.0, 0.0], [0.0, 0.5]])
    block = Block(
        axis="var",
        start=1,
        indptr=np.array([0, 1]),
        indices=np.array([1], dtype=np.int32),
        data=np.array([0.5]),
    )
    with pytest.raises(CountsError, match="cell 'cell1', feature 'g1'"):
        CountCheck(make_source(counts)).add(block)


def test_one_entry_twice_is_refused_by_name_and_unsorted_entries_are_not() -> None:
    counts = make_counts(2, 3)
    check = CountCheck(make_source(counts))
    block = block_of(counts)
    unsorted = replace(block, indices=np.array([2, 0, 1, 1, 2, 0], dtype=np.int32))
    check.add(unsorted)
    twice = replace(block, indices=np.array([2, 0, 1, 1, 0, 1], dtype=np.int32))
    with pytest.raises(InputError, match="cell 'cell1', feature 'g1' has two values"):
        check.add(twice)


def test_empty_rows_are_no_repeats() -> None:
    source = make_source(np.zeros((4, 2)))
    block = Block(
        axis="obs",
        start=0,
        indptr=np.array([0, 0, 1, 1, 2]),
        indices=np.array([1, 1], dtype=np.int32),
        data=np.array([3, 4]),
    )
    assert CountCheck(source).add(block).data.tolist() == [3, 4]


def test_a_sample_of_counts_has_no_fault() -> None:
    assert fault_of(np.array([0.0, 3.0, 1e6])) is None
    assert fault_of(np.array([], dtype=np.float32)) is None
    assert fault_of(np.array([1, 2])) is None
