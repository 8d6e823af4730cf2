"""Fashion-MNIST, 28×28×1."""
