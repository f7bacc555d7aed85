"""Which messages bring a connection's products to what is wanted."""

from hypothesis import given
from hypothesis import strategies as st

from producers.plan import ASK_AGAIN_AFTER, CONFIRM_WITHIN, MAX_PRODUCTS, Request, SubscriptionPlan

BTC, ETH, SOL = "BTC-USD", "ETH-USD", "SOL-USD"


def test_a_new_connection_asks_for_everything_once() -> None:
    plan = SubscriptionPlan([ETH, BTC])

    assert plan.requests(0.0) == [Request(subscribe=True, products=(BTC, ETH))]
    assert plan.requests(1.0) == []
    assert not plan.settled


def test_the_plan_is_settled_when_everything_is_confirmed() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    plan.requests(0.0)

    plan.confirm(frozenset({BTC}))
    assert not plan.settled
    plan.confirm(frozenset({BTC, ETH}))

    assert plan.settled


def test_a_change_asks_only_for_the_difference() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    plan.requests(0.0)
    plan.confirm(frozenset({BTC, ETH}))

    plan.want([ETH, SOL])

    assert plan.requests(1.0) == [Request(subscribe=False, products=(BTC,)), Request(subscribe=True, products=(SOL,))]


def test_a_product_unwanted_before_its_confirmation_is_unsubscribed() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    plan.requests(0.0)

    plan.want([BTC])
    assert plan.requests(0.1) == [Request(subscribe=False, products=(ETH,))]
    plan.confirm(frozenset({BTC, ETH}))

    assert plan.requests(0.2) == [Request(subscribe=False, products=(ETH,))]


def test_a_product_that_the_exchange_drops_is_asked_for_again() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    plan.requests(0.0)
    plan.confirm(frozenset({BTC, ETH}))

    plan.confirm(frozenset({BTC}))

    assert plan.requests(1.0) == [Request(subscribe=True, products=(ETH,))]


def test_many_products_are_split_over_messages() -> None:
    products = [f"P{number:04}-USD" for number in range(2 * MAX_PRODUCTS + 1)]

    requests = SubscriptionPlan(products).requests(0.0)

    assert [len(request.products) for request in requests] == [MAX_PRODUCTS, MAX_PRODUCTS, 1]
    assert [product for request in requests for product in request.products] == products


def test_a_refused_product_does_not_keep_the_others_away() -> None:
    plan = SubscriptionPlan([BTC, "NO-SUCH"])
    plan.requests(0.0)

    assert plan.refuse("NO-SUCH is not a valid product", 0.1) == ["NO-SUCH"]

    assert plan.requests(0.1) == [Request(subscribe=True, products=(BTC,))]
    plan.confirm(frozenset({BTC}))
    assert plan.settled
    assert plan.refused["NO-SUCH"].reason == "NO-SUCH is not a valid product"


def test_the_same_refusal_for_another_channel_changes_nothing() -> None:
    plan = SubscriptionPlan([BTC, "NO-SUCH"])
    plan.requests(0.0)
    plan.refuse("NO-SUCH is not a valid product", 0.1)
    plan.requests(0.1)

    assert plan.refuse("NO-SUCH is not a valid product", 0.2) == ["NO-SUCH"]
    assert plan.requests(0.2) == []


def test_an_error_that_names_no_product_refuses_none() -> None:
    plan = SubscriptionPlan([BTC])
    plan.requests(0.0)

    assert plan.refuse("Internal error", 0.1) == []
    assert plan.refused == {}


def test_a_refused_product_is_asked_for_again_later() -> None:
    plan = SubscriptionPlan(["NEW-USD"])
    plan.requests(0.0)
    plan.refuse("NEW-USD is not a valid product", 1.0)

    plan.expire(ASK_AGAIN_AFTER)
    assert plan.requests(ASK_AGAIN_AFTER) == []
    plan.expire(ASK_AGAIN_AFTER + 1.0)

    assert plan.requests(ASK_AGAIN_AFTER + 1.0) == [Request(subscribe=True, products=("NEW-USD",))]


def test_a_product_that_is_never_confirmed_is_given_up() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    plan.requests(0.0)
    plan.confirm(frozenset({BTC}))

    assert plan.expire(CONFIRM_WITHIN - 0.1) == []
    assert plan.expire(CONFIRM_WITHIN) == [ETH]

    assert plan.settled


def test_a_late_confirmation_takes_a_refusal_back() -> None:
    plan = SubscriptionPlan([BTC])
    plan.requests(0.0)
    plan.expire(CONFIRM_WITHIN)

    plan.confirm(frozenset({BTC}))

    assert plan.refused == {}


_PRODUCTS = st.sets(st.sampled_from([f"P{n}-USD" for n in range(8)]))


@given(st.lists(st.tuples(_PRODUCTS, st.booleans()), min_size=1, max_size=12))
def test_the_exchange_ends_up_with_what_is_wanted_last(steps: list[tuple[set[str], bool]]) -> None:
    plan = SubscriptionPlan()
    subscribed: set[str] = set()
    answers: list[frozenset[str]] = []
    for wanted, answered in [*steps, (steps[-1][0], True), (steps[-1][0], True)]:
        plan.want(wanted)
        for request in plan.requests(0.0):
            subscribed = subscribed | set(request.products) if request.subscribe else subscribed - set(request.products)
            answers.append(frozenset(subscribed))
        while answered and answers:
            plan.confirm(answers.pop(0))

    assert subscribed == steps[-1][0]
    assert plan.settled
