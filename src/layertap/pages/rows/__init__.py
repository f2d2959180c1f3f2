"""Single rows of a page: what the model read, and Grad-CAM over it."""
