"""The tests: each folder mirrors one of the package; ``house`` looks at the whole."""
