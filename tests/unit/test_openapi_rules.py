"""The OpenAPI document's part about rules: a trial takes what a rule is made of, and says when it is busy."""

from fastapi import FastAPI

from api.openapi import documented
from api.rules.endpoints import router

APP = FastAPI(title="rules")
APP.include_router(router)
DOCUMENT = documented(APP)()


def test_a_trial_takes_what_a_rule_is_made_of_and_a_span() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    rule, trial = schemas["RuleDefinition"], schemas["RuleTrial"]

    assert trial["properties"].keys() - rule["properties"].keys() == {"from", "to", "products"}
    assert rule["properties"].items() <= trial["properties"].items()
    assert trial["required"] == rule["required"]
    assert trial["additionalProperties"] is False


def test_a_trial_tells_of_its_refusals_and_has_an_example() -> None:
    operation = DOCUMENT["paths"]["/api/v1/rules/test"]["post"]

    assert {"200", "400", "401", "403", "422", "429", "503"} <= operation["responses"].keys()
    [example] = operation["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert example.keys() >= {"name", "product", "condition", "from"}
