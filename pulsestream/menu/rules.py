"""`pulsestream rules`: files of rules without a running stack, and the tenant's rules over the API."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pulsestream.core import log
from pulsestream.menu.common import ApiKey, Begin, EachAsJson, End, database_url, group, opened

app = group("Alert rules: files of them, and the tenant's.")
Named = Annotated[
    str, typer.Argument(metavar="RULE", help="name or id of a rule, as `pulsestream rules list` shows it")
]


@app.command("check")
def rules_check(file: Annotated[Path, typer.Argument(help="YAML file of rules")]) -> None:
    """Say whether a file is valid.

    Else each fault is told with its line, and the exit code is 2.

    Example: pulsestream rules check rules.yaml
    """
    from pulsestream.commands.rules import check

    typer.echo(check(file))


@app.command("explain")
def rules_explain(
    file: Annotated[Path, typer.Argument(help="YAML file of rules")],
    rule: Annotated[str | None, typer.Option(help="only the rule of this name")] = None,
) -> None:
    """Say in words what rules do, each with an example of when it would fire.

    Example: pulsestream rules explain rules.yaml --rule btc-below-15000
    """
    from pulsestream.commands.rules import explained

    typer.echo(explained(file, rule))


@app.command("test")
def rules_test(file: Annotated[Path, typer.Argument(help="YAML file of rules, with tests")]) -> None:
    """Run the tests of a file of rules.

    A test lists ticks, or names a source as `pulsestream backtest` takes it, and every transition that has to follow.
    Exit code 1 if one of them does not hold, with the difference.

    Example: pulsestream rules test rules.yaml
    """
    from pulsestream.commands.rules import run_tests

    log.configure("offline", "warning", "console")
    if not run_tests(file, database_url, typer.echo):
        raise typer.Exit(1)


@app.command("try")
def rules_try(
    file: Annotated[Path, typer.Argument(help="YAML file of rules")],
    key: ApiKey,
    rule: Annotated[str | None, typer.Option(help="name of the only one to try")] = None,
    begin: Begin = None,
    end: End = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one transition a line")] = False,
) -> None:
    """Try rules on what is stored of a tenant, over the API.

    Prints each transition that the live evaluator makes of the stored ticks and trades, by default of the last 24 h,
    and what each rule comes to. Nothing is saved.

    Examples: pulsestream rules try rules.yaml; pulsestream rules try rules.yaml --rule btc-low --from 2026-01-30 --json
    """
    from pulsestream.commands.rule_trials import run
    from pulsestream.commands.rules import chosen_rules

    rules = chosen_rules(file, rule)
    with opened(key) as api:
        run(api, rules, (begin, end), as_json=as_json, out=sys.stdout)


@app.command("list")
def rules_list(key: ApiKey, *, as_json: EachAsJson = False) -> None:
    """List the tenant's rules.

    Examples: pulsestream rules list; pulsestream rules list --json
    """
    from pulsestream.commands.tenant_rules import listed

    with opened(key) as api:
        listed(api, as_json=as_json, out=sys.stdout)


@app.command("apply")
def rules_apply(
    file: Annotated[Path, typer.Argument(help="YAML file of rules")],
    key: ApiKey,
    *,
    prune: Annotated[bool, typer.Option("--prune", help="delete the tenant's rules that are not in the file")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="change nothing, say what would be")] = False,
) -> None:
    """Have the tenant's rules be those of a file: by name they are made, changed or left as they are.

    Safe to run again. What somebody else changes meanwhile is not overwritten: the command says so and ends.

    Examples: pulsestream rules apply rules.yaml --dry-run; pulsestream rules apply rules.yaml --prune
    """
    from pulsestream.commands.tenant_rules import apply

    with opened(key) as api:
        apply(api, file, prune=prune, dry_run=dry_run, out=sys.stdout)


@app.command("show")
def rules_show(rule: Named, key: ApiKey) -> None:
    """Show a rule as JSON.

    Example: pulsestream rules show btc-below-15000
    """
    from pulsestream.commands.tenant_rules import show

    with opened(key) as api:
        typer.echo(show(api, rule))


@app.command("versions")
def rules_versions(rule: Named, key: ApiKey, *, as_json: EachAsJson = False) -> None:
    """List a rule's versions: who changed what, and when each held; of a deleted rule by its id.

    Example: pulsestream rules versions btc-below-15000
    """
    from pulsestream.commands.tenant_rules import versions

    with opened(key) as api:
        versions(api, rule, as_json=as_json, out=sys.stdout)


@app.command("pause")
def rules_pause(rule: Named, key: ApiKey) -> None:
    """Pause a rule: it evaluates nothing until it is resumed.

    Example: pulsestream rules pause btc-below-15000
    """
    from pulsestream.commands.tenant_rules import pause

    with opened(key) as api:
        typer.echo(pause(api, rule))


@app.command("resume")
def rules_resume(rule: Named, key: ApiKey) -> None:
    """Let a paused rule go on.

    Example: pulsestream rules resume btc-below-15000
    """
    from pulsestream.commands.tenant_rules import resume

    with opened(key) as api:
        typer.echo(resume(api, rule))


@app.command("delete")
def rules_delete(rule: Named, key: ApiKey) -> None:
    """Delete a rule; alerts that it has open are resolved.

    Example: pulsestream rules delete btc-below-15000
    """
    from pulsestream.commands.tenant_rules import delete

    with opened(key) as api:
        typer.echo(delete(api, rule))
