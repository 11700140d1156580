from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort.server.fair_queue import FairQueue

ITEMS = st.lists(st.sampled_from("abc"), max_size=20)


def filled(clients):
    queue = FairQueue()
    for place, client in enumerate(clients):
        queue.put(client, (client, place))
    return queue


def test_a_client_with_many_items_does_not_hold_up_one_with_a_single_item():
    queue = filled("aaab")
    assert [queue.take() for _ in range(4)] == [("a", 0), ("b", 3), ("a", 1), ("a", 2)]


@given(ITEMS)
def test_every_item_comes_out_once_and_each_client_s_in_their_order(clients):
    queue = filled(clients)
    assert len(queue) == len(clients)
    taken = [queue.take() for _ in clients]
    assert len(queue) == 0
    for client in set(clients):
        own = [place for of, place in taken if of == client]
        assert own == [place for place, of in enumerate(clients) if of == client]


@given(ITEMS)
def test_no_client_gets_a_second_turn_while_another_waits_for_its_first(clients):
    queue = filled(clients)
    num_clients = len(set(clients))
    assert len({queue.take()[0] for _ in range(num_clients)}) == num_clients


@given(ITEMS, st.data())
def test_a_discarded_item_does_not_come_out(clients, data):
    queue = filled(clients)
    gone = {place for place in range(len(clients)) if data.draw(st.booleans())}
    for place in gone:
        queue.discard(clients[place], (clients[place], place))
        queue.discard(clients[place], (clients[place], place))  # it may be gone already
    assert len(queue) == len(clients) - len(gone)
    assert {queue.take()[1] for _ in range(len(queue))} == set(range(len(clients))) - gone
