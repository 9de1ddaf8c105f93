"""Small whole numbers instead of floats: how they are chosen, and networks that compute on nothing else."""
