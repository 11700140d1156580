import numpy as np
import pytest

from dovetail_ort_export.rotation import Rotation

SIZES = (1, 2, 7, 12, 64, 576, 960, 2048)


@pytest.mark.parametrize("size", SIZES)
def test_a_rotation_keeps_every_inner_product(size):
    rotation = Rotation(size)
    rotated = rotation.apply(np.eye(size, dtype=np.float32))
    # Entries of order 1 / sqrt(E), E of them summed in float32.
    np.testing.assert_allclose(rotated @ rotated.T, np.eye(size), atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_applying_is_the_product_with_the_kronecker_product_of_the_factors(size):
    rotation = Rotation(size)
    assert len(rotation.left) * len(rotation.right) == size
    x = np.random.default_rng(0).normal(size=(2, 3, size)).astype(np.float32)
    expected = x.astype(np.float64) @ np.kron(rotation.left, rotation.right).astype(np.float64)
    np.testing.assert_allclose(rotation.apply(x), expected, atol=1e-5)


@pytest.mark.parametrize("size", [64, 576, 960, 2048])
def test_an_outlier_channel_is_spread_over_all(size):
    # A cosine's entry is at most sqrt(2 / m) where a Hadamard's is sqrt(1 / m); two odd factors give 2.
    assert np.abs(Rotation(size).apply(np.eye(size, dtype=np.float32))).max() <= 2.001 / np.sqrt(size)


def test_two_rotations_of_one_size_are_the_same():
    np.testing.assert_array_equal(Rotation(576).left, Rotation(576).left)
    np.testing.assert_array_equal(Rotation(576).right, Rotation(576).right)
