"""Models trained by backpropagation, each compared with its exact optimum; the linear ones have gradients by hand."""
