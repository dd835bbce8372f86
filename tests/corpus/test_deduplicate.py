"""Near duplicates by hand and against all-pairs set arithmetic."""

from hypothesis import given
from hypothesis import strategies as st

from memdec.corpus.deduplicate import Overlap, drop_near_duplicates, shingles
from memdec.corpus.pieces import split_long


def sentence(first, last):
    """Return the numbered words first..last, of which each run of 5 is unique."""
    return " ".join(f"w{number}" for number in range(first, last + 1))


def test_shingles_are_runs_of_five_lower_case_words():
    assert shingles("You may COPY, modify; and\nsell it.") == {
        ("you", "may", "copy", "modify", "and"),
        ("may", "copy", "modify", "and", "sell"),
        ("copy", "modify", "and", "sell", "it"),
    }
    assert shingles("One, two.") == {("one", "two")}
    assert shingles(" -- ") == set()


def test_half_of_the_smaller_text_makes_a_duplicate_and_less_does_not():
    kept = sentence(1, 100)
    more = sentence(81, 100) + " " + sentence(201, 208)
    assert len(shingles(more)) == 24
    assert len(shingles(more) & shingles(kept)) == 16
    assert drop_near_duplicates([kept, more]) == [kept]
    exactly_half = sentence(85, 100) + " " + sentence(201, 212)
    assert len(shingles(exactly_half)) == 24
    assert len(shingles(exactly_half) & shingles(kept)) == 12
    assert drop_near_duplicates([kept, exactly_half]) == [kept]
    below_half = sentence(86, 100) + " " + sentence(201, 213)
    assert len(shingles(below_half) & shingles(kept)) == 11
    assert drop_near_duplicates([kept, below_half]) == [kept, below_half]


def test_a_phrase_is_no_copy_of_the_text_that_it_stands_in():
    phrase, text = sentence(10, 22), sentence(1, 500)
    assert len(shingles(phrase)) == 9
    assert drop_near_duplicates([phrase, text]) == [phrase, text]
    assert drop_near_duplicates([sentence(10, 23), text]) == [sentence(10, 23)]
    assert drop_near_duplicates([phrase, phrase + " w23"]) == [phrase]
    overlap = Overlap()
    overlap.add_test_document(text)
    overlap.add_document("train", phrase)
    assert overlap.share("train") == 0
    overlap.add_test_document(phrase + " w999")  # but a test document that training shows is one
    overlap.add_document("train", text)
    assert overlap.facts("train") == {"test_documents": 2, "exact": 1, "near": 2}


def test_the_smaller_of_the_two_counts_whichever_comes_first():
    small, large = sentence(10, 40), sentence(1, 500)
    assert drop_near_duplicates([small, large]) == [small]
    assert drop_near_duplicates([large, small]) == [large]


def test_a_dropped_text_drops_nobody_else():
    first, middle, last = sentence(1, 40), sentence(15, 54), sentence(41, 80)
    assert drop_near_duplicates([first, middle]) == [first]
    assert drop_near_duplicates([middle, last]) == [middle, last]
    chain = [sentence(1, 40), sentence(17, 56), sentence(33, 72)]
    assert drop_near_duplicates(chain) == [chain[0], chain[2]]


def test_texts_without_words_are_nobodys_duplicate():
    assert drop_near_duplicates(["...", "!!!", "..."]) == ["...", "!!!", "..."]


def slow_drop(texts):
    kept = []
    for text in texts:
        if not any(slow_twins(shingles(text), shingles(other)) for other in kept):
            kept.append(text)
    return kept


def slow_twins(one, other):
    smaller, larger = sorted((len(one), len(other)))
    counted = smaller if smaller >= 20 else min(20, larger)
    return bool(one & other) and len(one & other) / counted >= 0.5


def slow_repeats(test_text, train_text):
    test, train = shingles(test_text), shingles(train_text)
    if len(test) <= len(train):
        return bool(test & train) and len(test & train) / len(test) >= 0.5
    return slow_twins(test, train)


short_texts = st.lists(st.lists(st.sampled_from("abc"), max_size=50).map(" ".join), max_size=10)


@given(short_texts)
def test_the_index_agrees_with_all_pairs(texts):
    assert drop_near_duplicates(texts) == slow_drop(texts)


@given(short_texts, short_texts)
def test_overlap_agrees_with_all_pairs(test_texts, train_texts):
    overlap = Overlap()
    for text in test_texts:
        overlap.add_test_document(text)
    for text in train_texts:
        overlap.add_document("train", text)
    near = exact = 0
    for text in test_texts:
        same = text in train_texts
        exact += same
        near += same or any(slow_repeats(text, other) for other in train_texts)
    assert overlap.facts("train") == {
        "test_documents": len(test_texts),
        "exact": exact,
        "near": near,
    }
    assert overlap.share("train") == (near / len(test_texts) if test_texts else 0)


def test_a_long_train_document_is_searched_in_pieces():
    lines = [sentence(20 * line, 20 * line + 19) for line in range(8000)]
    first, last = split_long("\n".join(lines))
    num_last = len(shingles(last))
    overlap = Overlap()
    overlap.add_test_document(lines[7])
    overlap.add_test_document(lines[-7])
    # Holds most of the last piece, but more words of its own: half of neither whole text.
    overlap.add_test_document(f"{last} {sentence(10**6, 10**6 + 2 * num_last)}")
    overlap.add_document("train", first + last)
    assert overlap.facts("train") == {"test_documents": 3, "exact": 0, "near": 2}
