"""Datasets of (reference image, modification text, target image) triplets."""
