"""Data modules: examples, their split over the clients, and the rounds made of them."""
