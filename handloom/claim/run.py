"""`handloom claim`: all steps, then the report."""

from handloom.claim import report, scheduler
from handloom.claim.config import ClaimConfig
from handloom.claim.plan import steps
from handloom.claim.results import collect, verdict
from handloom.errors import RunError


def claim(config: ClaimConfig) -> None:
    """Do what is not done yet and write the report, of what there is even if a step fails.

    Raises:
        UserError: a number that cannot be.
        RunError: a step failed.
    """
    sized = config.sized()
    try:
        scheduler.run(steps(sized), sized.out, sized.workers)
    except (RunError, KeyboardInterrupt):
        report.write(sized)
        print(f"{sized.out / 'report.html'} shows what is done so far")
        raise
    report.write(sized)
    results = collect(sized)
    print("\n".join(line for mode in ("frozen", "full") for line in verdict(results, mode)))
    print(f"open {sized.out / 'report.html'}")
