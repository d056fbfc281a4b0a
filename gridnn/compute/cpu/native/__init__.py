"""Own kernels in C (kernels/cpu), compiled by the package's build: thin wrappers, one module a subject."""
