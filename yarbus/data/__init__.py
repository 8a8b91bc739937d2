"""From files to batches: readers, the image opener, mixtures, the step sampler, the collator.

A file becomes ``Sample``s (text and paths, nothing decoded), a step becomes ``Visit``s (which sample, in
which epoch), and the collator opens their images, renders them with the model's own chat template and
hands over the batch. What a model does with a batch belongs upstairs. Example::

    samples = read_mixture([DataSection(source="llava", path="train.json", images="images")])
    sampler, collate = StepSampler(len(samples), batch=64, seed=0), Collator(processor, seed=0)
    batch = collate([(samples[row], epoch, row) for epoch, row in sampler.visits(step)])
"""
