"""The benchmark: `make bench`. Numbers for people, never a test that passes or fails by them."""
