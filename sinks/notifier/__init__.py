"""The notifier: alerts reach the people and programs that wait for them."""
