"""Small whole numbers instead of floats: how they are chosen, and networks that compute on nothing else."""
"""Numbers in few bits: how they are rounded, and which ranges they have in a model.

numbers       schemes and grids; choose, quantise, dequantise; ternary and binary; packed codes
powers        powers of two, and products by shifts
observers     which range of numbers is worth its codes
calibrate     the ranges of all values of a model, and what rounding them costs
"""
