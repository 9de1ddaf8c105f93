"""Numbers in few bits: how they are rounded, which ranges they have in a model, and networks that compute on nothing else.

numbers       schemes and grids; choose, quantise, dequantise; ternary and binary; packed codes
powers        powers of two, and products and networks by shifts
observers     which range of numbers is worth its codes
calibrate     the ranges of all values of a model, and what rounding them costs
rules         from a sum of products of codes back to a code, by one of five named rules
integer       layers and networks of integers
folded        a model as a list of layers with nothing between them
functions     what becomes of each number alone, written down
convert       from those to integers
narrow        networks in floats whose weights are codes: weight-only, and dynamic
qat           training with rounding: learned weights and steps, which the integers compute with
"""
