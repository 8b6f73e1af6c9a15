"""The sans-I/O core: frames, their codec and the two sessions. No clock, socket or logging inside."""
