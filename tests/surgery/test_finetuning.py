import copy
import pickle

import pytest
import torch
from torchvision.models import get_model

import bam
from bam.attention import Attended
from tests.conftest import restless

IMAGE = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return restless(get_model("resnet18", num_classes=10))


def attention_parameters(model):
    return {p for module in bam.attended(model).values() for p in module.parameters()}


def test_groups_hold_the_attention_alone_and_decay_its_weights_only(model):
    bam.attach(model, identity=True)
    weights, rest = bam.attention_groups(model, lr=0.1, weight_decay=1e-4)
    assert set(weights["params"]) | set(rest["params"]) == attention_parameters(model)
    assert len(weights["params"]) + len(rest["params"]) == len(attention_parameters(model))
    assert (weights["lr"], weights["weight_decay"], rest["lr"], rest["weight_decay"]) == (0.1, 1e-4, 0.1, 0.0)
    assert all(p.ndim > 1 for p in weights["params"]) and all(p.ndim <= 1 for p in rest["params"])
    assert bam.attended(model)["layer1"].scale in set(rest["params"])
    assert "lr" not in bam.attention_groups(model)[0]
    with pytest.raises(ValueError, match="carries no attention"):
        bam.attention_groups(bam.detach(model))


def test_an_optimizer_is_extended_exactly_once(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    model(IMAGE).sum().backward()
    optimizer.step()
    momentum = optimizer.state[model.conv1.weight]["momentum_buffer"].clone()
    bam.attach(model, identity=True)
    assert bam.extend_optimizer(optimizer, model, lr=0.5) == len(attention_parameters(model))
    assert bam.extend_optimizer(optimizer, model, lr=0.5) == 0
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) and set(held) == set(model.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    assert torch.equal(optimizer.state[model.conv1.weight]["momentum_buffer"], momentum)
    before = bam.attended(model)["layer2"].scale.clone()
    optimizer.zero_grad()
    model(IMAGE).square().sum().backward()
    optimizer.step()
    assert not torch.equal(bam.attended(model)["layer2"].scale, before)


def test_a_scheduler_that_exists_already_is_reported(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    bam.attach(model)
    with pytest.raises(ValueError, match="scheduler was built"):
        bam.extend_optimizer(optimizer, model)
    assert len(optimizer.param_groups) == 1


def test_a_frozen_backbone_stays_as_it_is(model):
    bam.attach(model, identity=True)
    bam.freeze_backbone(model, trainable="fc")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if ".attention." in n or n.startswith("fc.")}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        model(IMAGE).square().sum().backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        mine = ".attention." in key or key.startswith("fc.")
        assert mine or torch.equal(value, before[key]), key
    assert not torch.equal(model.fc.weight, before["fc.weight"])
    assert int(bam.attended(model)["layer1"].channel.norm.num_batches_tracked) == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_frozen_backbone_normalises_by_running_statistics_also_in_copies(model, copied):
    expected = model.eval()(IMAGE)
    bam.freeze_backbone(bam.attach(model, identity=True))
    assert torch.equal(copied(model).train()(IMAGE), expected)
    compiled = torch.compile(model.train(), backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGE), expected)


def test_freezing_is_undone(model):
    bam.freeze_backbone(bam.freeze_backbone(bam.attach(model)), frozen=False)
    assert all(p.requires_grad for p in model.parameters())
    before = model.bn1.running_mean.clone()
    model.train()(IMAGE)
    assert not torch.equal(model.bn1.running_mean, before) and not model.bn1._forward_pre_hooks


def test_what_cannot_be_frozen_is_reported(model):
    with pytest.raises(ValueError, match="no module 'head'; choose from conv1, .*fc"):
        bam.freeze_backbone(model, trainable=["head"])
    with pytest.raises(ValueError, match="nothing would be left to train"):
        bam.freeze_backbone(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_without_attention_is_the_plain_network(model, training):
    plain = copy.deepcopy(model).train(training)
    bam.attach(model.train(training))
    for module in bam.attended(model).values():
        restless(module)
    with_attention = model(IMAGE)
    twin = copy.deepcopy(model)
    model.load_state_dict(plain.state_dict(), strict=False)
    with bam.without_attention(model) as plainly:
        assert plainly is model and torch.equal(model(IMAGE), plain(IMAGE))
        assert len(model.layer1) == 2 and len(list(model.layer1)) == 2
    assert not torch.equal(model(IMAGE), plain(IMAGE)) and with_attention.shape == (4, 10)
    with pytest.raises(LookupError), bam.without_attention(twin):
        raise LookupError
    assert all(module.attention_enabled for module in twin.modules() if isinstance(module, Attended))


def test_freezing_again_frees_and_freezes_anew(model):
    bam.attach(model.requires_grad_(False))
    for names in ([], ["fc", "layer4"], ["fc"]):
        bam.freeze_backbone(model, trainable=names)
        trainable = {
            n.partition(".")[0] for n, p in model.named_parameters() if p.requires_grad and ".attention." not in n
        }
        assert trainable == set(names) and all(p.requires_grad for p in attention_parameters(model))
        assert bool(model.layer4[0].bn1._forward_pre_hooks) == ("layer4" not in names)
