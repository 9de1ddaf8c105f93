"""Where what the sweep finds has been reported: by framework and function, a sentence with the thread."""

KNOWN: dict[str, dict[str, str]] = {
    "torch": {
        "pdist": "Known: pytorch/pytorch#197099.",
        "sigmoid": "Known: pytorch/pytorch#195681.",
    },
    "jax": {},
}
