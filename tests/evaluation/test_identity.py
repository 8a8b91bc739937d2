"""What replies depend on, as hashes."""

import copy

import torch

from yarbus.evaluation.identity import SampleHashes, model_fingerprint, prompt_fingerprint


def test_fingerprint_changes_with_any_number_of_any_tensor(tiny):
    model = copy.deepcopy(tiny[0])
    before = model_fingerprint(model)
    assert before == model_fingerprint(tiny[0])
    last = list(model.parameters())[-1]
    with torch.no_grad():
        last.view(-1)[-1] = torch.nextafter(last.view(-1)[-1], torch.tensor(9.0))
    assert model_fingerprint(model) != before


def test_fingerprint_reads_bfloat16_and_scalars():
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    model.register_buffer("scale", torch.tensor(1.0))
    assert len(model_fingerprint(model)) == 16


def test_prompt_fingerprint_changes_with_template_and_picture_size_and_not_with_use(tiny):
    processor = copy.deepcopy(tiny[1])
    before = prompt_fingerprint(processor)
    assert prompt_fingerprint(processor) == before
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert prompt_fingerprint(processor) != before


def test_sample_hash_covers_pictures_by_content(samples):
    before = SampleHashes()(samples[0])
    assert SampleHashes()(samples[0]) == before != SampleHashes()(samples[1])
    samples[0].images[0].unlink()
    assert SampleHashes()(samples[0]) != before
