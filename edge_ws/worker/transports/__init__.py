"""How frames travel: each transport is a module with the same small interface (`base`)."""
