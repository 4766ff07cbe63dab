"""Networks of all three libraries as files that other runtimes take."""
