"""The three ways to batch: what they have in common, and what each is for."""

from afterwatt.policies.batching import BATCHING, ChunkedPrefill, DecodeFirst, PrefillFirst
from afterwatt.policies.views import BatchDecision, BatchLimits, Candidate, Chunk, Prefilling
from tests.policies.conformance import BatchPolicyConformance, Shown

PROMPTS = (Candidate(1, 100, 7), Candidate(2, 300, 19), Candidate(3, 50, 4))
CALM = Shown(0.0, 4, (), PROMPTS, 1000, BatchLimits(16, 512))


class TestPrefillFirst(BatchPolicyConformance):
    make = PrefillFirst
    whole_prompts = True

    def test_prompts_interrupt_decoding(self):
        decision = PrefillFirst().select(CALM.view())
        assert decision == BatchDecision(decode=False, chunks=(Chunk(1, 100), Chunk(2, 300), Chunk(3, 50)))

    def test_a_prompt_above_the_budget_runs_alone(self):
        shown = CALM._replace(queue=(Candidate(1, 5000, 300), *PROMPTS))
        assert PrefillFirst().select(shown.view()).chunks == (Chunk(1, 5000),)

    def test_one_that_does_not_fit_is_not_overtaken(self):
        shown = CALM._replace(free_blocks=10)
        assert PrefillFirst().select(shown.view()).chunks == (Chunk(1, 100),)


class TestDecodeFirst(BatchPolicyConformance):
    make = DecodeFirst
    whole_prompts = True

    def test_a_batch_decodes_to_its_end(self):
        assert DecodeFirst().select(CALM.view()) == BatchDecision(decode=True)

    def test_then_the_next_batch_is_taken(self):
        decision = DecodeFirst().select(CALM._replace(decoding=0).view())
        assert [chunk.seq_id for chunk in decision.chunks] == [1, 2, 3]

    def test_it_keeps_to_the_token_budget_except_for_one_whole_prompt_alone(self):
        """It keeps to seats and blocks alone: a batch is no smaller for long prompts."""
        calm = CALM._replace(decoding=0)
        tight = calm._replace(limits=BatchLimits(CALM.limits.max_seqs, 1))
        assert DecodeFirst().select(tight.view()).chunks == DecodeFirst().select(calm.view()).chunks


class TestChunkedPrefill(BatchPolicyConformance):
    make = ChunkedPrefill

    def test_decoding_goes_on_and_prompts_fill_the_rest_of_the_budget(self):
        decision = ChunkedPrefill().select(CALM._replace(limits=BatchLimits(16, 204)).view())
        assert decision == BatchDecision(decode=True, chunks=(Chunk(1, 100), Chunk(2, 100)))

    def test_begun_prompts_come_first(self):
        shown = CALM._replace(prefilling=(Prefilling(9, 300), Prefilling(8, 40)))
        assert ChunkedPrefill().select(shown.view()).chunks == (
            *(Chunk(9, 300), Chunk(8, 40), Chunk(1, 100), Chunk(2, 68)),
        )

    def test_no_prompt_when_decoding_takes_the_whole_budget(self):
        assert ChunkedPrefill().select(CALM._replace(limits=BatchLimits(16, 4)).view()) == BatchDecision(decode=True)


def test_every_policy_of_the_catalogue_has_its_class_here():
    assert set(BATCHING.values()) == {TestPrefillFirst.make, TestDecodeFirst.make, TestChunkedPrefill.make}
