import pytest
import torch

from tuili import UsageError
from tuili.porting import passes
from tuili.porting.passes import decoder_layers, logits, losses, replaced_forward, watched


def test_logits_and_losses_in_pieces_are_those_of_the_model(decoder, tokens, monkeypatch):
    monkeypatch.setattr(passes, "PIECE", 7)
    ids = tokens(1, 40)[0]
    hidden = decoder.base_model(ids[None], use_cache=False).last_hidden_state[0]
    whole = decoder(ids[None]).logits[0]
    pieces = list(logits(decoder, hidden))
    assert [len(piece) for piece in pieces] == [7] * 5 + [5]
    torch.testing.assert_close(torch.cat(pieces), whole)
    expected = torch.nn.functional.cross_entropy(whole[19:-1], ids[20:], reduction="none")
    torch.testing.assert_close(losses(decoder, hidden[19:], ids).float(), expected)
    torch.testing.assert_close(decoder(ids[None]).logits[0], whole)


def test_a_softcapped_head_is_the_models_own(make_decoder, tokens):
    model = make_decoder("gemma2", final_logit_softcapping=0.5)
    ids = tokens(1, 12)
    hidden = model.base_model(ids, use_cache=False).last_hidden_state[0]
    found = torch.cat(list(logits(model, hidden)))
    torch.testing.assert_close(found, model(ids).logits[0])
    assert found.abs().max() <= 0.5


def test_layers_are_told_as_they_are_done(decoder, tokens):
    seen = []
    with watched(decoder, lambda done, total: seen.append((done, total))):
        decoder(tokens(1, 5))
    decoder(tokens(1, 5))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_replaced_forward_is_put_back_whatever_happens(make_decoder):
    layer = decoder_layers(make_decoder("llama"))[0]
    with pytest.raises(ZeroDivisionError), replaced_forward(layer, lambda x: x):
        with replaced_forward(layer, lambda x: -x):
            assert layer(3) == -3
        assert layer(3) == 3
        raise ZeroDivisionError
    assert "forward" not in vars(layer)


def test_a_model_without_a_head_has_no_logits(make_decoder):
    with pytest.raises(UsageError, match="no list of layers below"):
        decoder_layers(make_decoder("llama").base_model)
