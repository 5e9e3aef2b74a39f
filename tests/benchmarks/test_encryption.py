from benchmarks import encryption, encryption_report


def test_a_run_without_options_is_the_one_that_is_published() -> None:
    options = encryption.parse([])
    assert (options.bodies, options.gateways) == ((64, 150_000), ["unix", "tcp"])
    assert (options.rounds, options.connections) == (7, [1, 16, 64])
    assert options.results == encryption_report.RESULTS


def test_a_shorter_run_asks_for_one_case() -> None:
    options = encryption.parse(["--gateways", "unix", "--bodies", "64", "--rounds", "1", "--json"])
    assert (options.bodies, options.gateways, options.rounds, options.json) == ([64], ["unix"], 1, True)
