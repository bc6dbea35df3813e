"""Graphics cards: the kernel's source, and CUDA and OpenCL behind one face."""
