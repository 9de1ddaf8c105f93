"""Property tests for gradients: anybody's, of any framework."""
