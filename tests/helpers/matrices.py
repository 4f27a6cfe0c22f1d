"""Matrices of blocks in every form that the solver knows, and in full."""

import numpy as np

FORMS = ("dense", "diagonal", "small blocks")
DIMENSION, PARTS = 6, 2
SHAPES = {
    "dense": (DIMENSION, DIMENSION),
    "diagonal": (DIMENSION,),
    "small blocks": (DIMENSION // PARTS, PARTS, PARTS),
}


def random_matrices(form: str, num_blocks: int, seed: int = 0) -> np.ndarray:
    """Matrices of six dimensions; the small blocks couple two parts of three coordinates."""
    return np.random.default_rng(seed).normal(size=(num_blocks, *SHAPES[form])) / 2


def full(matrices: np.ndarray) -> np.ndarray:
    """Any of the forms as D x D matrices."""
    if matrices.ndim == 2:
        return matrices[:, :, None] * np.eye(matrices.shape[1])
    if matrices.ndim == 3:
        return matrices
    num_blocks, n, parts, _ = matrices.shape
    result = np.zeros((num_blocks, n * parts, n * parts))
    for i in range(n):
        result[:, i::n, i::n] = matrices[:, i]
    return result
