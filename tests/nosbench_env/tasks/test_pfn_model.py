import pytest
import torch

from nosbench_env.tasks.pfn_data import sample_batch
from nosbench_env.tasks.pfn_model import PFN


def random_model() -> PFN:
    """A model whose weights are all random, also those that start at 0."""
    torch.manual_seed(0)
    model = PFN(1, 100)
    for param in model.parameters():
        param.data = torch.randn_like(param) * 0.1
    return model


def test_the_model_is_the_papers_in_size() -> None:
    params = list(PFN(1, 100).parameters())
    assert (len(params), sum(param.numel() for param in params)) == (56, 2_292_324)


def test_layers_start_equal_and_change_nothing() -> None:
    model = PFN(1, 100)
    for layer in model.layers:
        assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), model.layers[0].parameters(), strict=True))
        assert not layer.self_attn.out_proj.weight.any()
        assert not layer.linear2.bias.any()


@pytest.mark.parametrize("num_context", [0, 1, 5, 19])
def test_model_is_the_unpacked_transformer(num_context: int) -> None:
    """Against torch's own layers with a mask, in float64, with random weights."""
    model = random_model().double()
    x, y = (data.double() for data in sample_batch(3))

    tokens = model.x_encoder((x - 0.5) / (1 / 12) ** 0.5)
    tokens = torch.cat([tokens[:num_context] + model.y_encoder(y[:num_context, :, None]), tokens[num_context:]])
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[:, num_context:] = True
    for layer in model.layers:
        if num_context:
            tokens = layer(tokens, src_mask=mask)
        else:  # attention to nothing is 0, which the output projection turns into its bias
            tokens = layer.norm1(tokens + layer.self_attn.out_proj.bias)
            tokens = layer.norm2(tokens + layer.linear2(torch.nn.functional.gelu(layer.linear1(tokens))))
    torch.testing.assert_close(model(x, y, num_context), model.decoder(tokens[num_context:]))


def test_labels_outside_the_context_are_not_read() -> None:
    model = random_model()
    x, y = sample_batch(0)
    other = y.clone()  # with the strides of y: other strides may take another kernel, which rounds differently
    other[7:] = 100.0
    assert other.stride() == y.stride()
    assert torch.equal(model(x, y, 7), model(x, other, 7))


def test_every_parameter_gets_a_gradient_also_without_context() -> None:
    model = PFN(1, 100)
    x, y = sample_batch(6)
    model(x, y, 0).sum().backward()
    # y_encoder sees no label then; the paper's code gives it a gradient of zeros, not none
    assert all(param.grad is not None for param in model.parameters())
