output "groups" {
  description = "The names of the groups."
  value       = [for group in aws_autoscaling_group.nodes : group.name]
}

output "volumes" {
  description = "The ids of the volumes by node/set."
  value       = { for key, volume in aws_ebs_volume.member : key => volume.id }
}
