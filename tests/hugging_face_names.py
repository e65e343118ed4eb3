"""Meta's and Hugging Face's names of SAM 2's tensors, as the two state dicts list them.

Written down with braces for alternatives that stand in the same place on both sides.
"""

import re
from itertools import product

# WB: weight and bias; {a,b}: alternatives, of which both sides take the one at the same place.
TABLE = """
maskmem_tpos_enc                                    memory_temporal_positional_encoding
no_mem_embed                                        no_memory_embedding
no_mem_pos_enc                                      no_memory_positional_encoding
no_obj_ptr                                          no_object_pointer
no_obj_embed_spatial                                occlusion_spatial_embedding_parameter
obj_ptr_tpos_proj.WB                                temporal_positional_encoding_projection_layer.WB
mask_downsample.WB                                  mask_downsample.WB
obj_ptr_proj.layers.{0,1,2}.WB                      object_pointer_proj.{proj_in,layers.0,proj_out}.WB
image_encoder.trunk.{pos_embed,pos_embed_window}    vision_encoder.backbone.{pos_embed,pos_embed_window}
image_encoder.trunk.patch_embed.proj.WB             vision_encoder.backbone.patch_embed.projection.WB
image_encoder.trunk.blocks.BLOCK.{norm1,norm2}.WB   vision_encoder.backbone.blocks.BLOCK.{layer_norm1,layer_norm2}.WB
image_encoder.trunk.blocks.BLOCK.attn.{qkv,proj}.WB vision_encoder.backbone.blocks.BLOCK.attn.{qkv,proj}.WB
image_encoder.trunk.blocks.BLOCK.mlp.layers.{0,1}.WB vision_encoder.backbone.blocks.BLOCK.mlp.{proj_in,proj_out}.WB
image_encoder.trunk.blocks.{1,3,10}.proj.WB         vision_encoder.backbone.blocks.{1,3,10}.proj.WB
image_encoder.neck.convs.{0,1,2,3}.conv.WB          vision_encoder.neck.convs.{0,1,2,3}.WB
memory_attention.layers.LAYER4.ATT.{q,k,v,out}_proj.WB memory_attention.layers.LAYER4.ATT.{q,k,v,o}_proj.WB
memory_attention.layers.LAYER4.{linear1,linear2}.WB memory_attention.layers.LAYER4.{linear1,linear2}.WB
memory_attention.layers.LAYER4.norm{1,2,3}.WB       memory_attention.layers.LAYER4.layer_norm{1,2,3}.WB
memory_attention.norm.WB                            memory_attention.layer_norm.WB
memory_encoder.mask_downsampler.encoder.{0,3,6,9}.WB memory_encoder.mask_downsampler.layers.{0,1,2,3}.conv.WB
memory_encoder.mask_downsampler.encoder.{1,4,7,10}.WB memory_encoder.mask_downsampler.layers.{0,1,2,3}.layer_norm.WB
memory_encoder.mask_downsampler.encoder.12.WB       memory_encoder.mask_downsampler.final_conv.WB
memory_encoder.pix_feat_proj.WB                     memory_encoder.feature_projection.WB
memory_encoder.fuser.layers.{0,1}.gamma             memory_encoder.memory_fuser.layers.{0,1}.scale
memory_encoder.fuser.layers.{0,1}.dwconv.WB         memory_encoder.memory_fuser.layers.{0,1}.depthwise_conv.WB
memory_encoder.fuser.layers.{0,1}.norm.WB           memory_encoder.memory_fuser.layers.{0,1}.layer_norm.WB
memory_encoder.fuser.layers.{0,1}.pwconv1.WB        memory_encoder.memory_fuser.layers.{0,1}.pointwise_conv1.WB
memory_encoder.fuser.layers.{0,1}.pwconv2.WB        memory_encoder.memory_fuser.layers.{0,1}.pointwise_conv2.WB
memory_encoder.out_proj.WB                          memory_encoder.projection.WB
sam_prompt_encoder.{not_a_point_embed,no_mask_embed}.weight prompt_encoder.{not_a_point_embed,no_mask_embed}.weight
sam_prompt_encoder.mask_downscaling.{0,1,3,4,6}.WB  prompt_encoder.mask_embed.{conv1,layer_norm1,conv2,layer_norm2,conv3}.WB
sam_mask_decoder.{iou_token,mask_tokens,obj_score_token}.weight mask_decoder.{iou_token,mask_tokens,obj_score_token}.weight
sam_mask_decoder.{conv_s0,conv_s1}.WB               mask_decoder.{conv_s0,conv_s1}.WB
sam_mask_decoder.output_upscaling.{0,1,3}.WB        mask_decoder.{upscale_conv1,upscale_layer_norm,upscale_conv2}.WB
sam_mask_decoder.iou_prediction_head.layers.{0,1,2}.WB mask_decoder.iou_prediction_head.{proj_in,layers.0,proj_out}.WB
sam_mask_decoder.pred_obj_score_head.layers.{0,1,2}.WB mask_decoder.pred_obj_score_head.{proj_in,layers.0,proj_out}.WB
sam_mask_decoder.output_hypernetworks_mlps.LAYER4.layers.{0,1,2}.WB mask_decoder.output_hypernetworks_mlps.LAYER4.{proj_in,layers.0,proj_out}.WB
sam_mask_decoder.transformer.layers.LAYER2.CROSS.{q,k,v,out}_proj.WB mask_decoder.transformer.layers.LAYER2.CROSS.{q,k,v,o}_proj.WB
sam_mask_decoder.transformer.layers.LAYER2.mlp.layers.{0,1}.WB mask_decoder.transformer.layers.LAYER2.mlp.{proj_in,proj_out}.WB
sam_mask_decoder.transformer.layers.LAYER2.norm{1,2,3,4}.WB mask_decoder.transformer.layers.LAYER2.layer_norm{1,2,3,4}.WB
sam_mask_decoder.transformer.final_attn_token_to_image.{q,k,v,out}_proj.WB mask_decoder.transformer.final_attn_token_to_image.{q,k,v,o}_proj.WB
sam_mask_decoder.transformer.norm_final_attn.WB     mask_decoder.transformer.layer_norm_final_attn.WB
"""  # noqa: E501
SHORT = {
    "BLOCK": "{" + ",".join(map(str, range(12))) + "}",
    "LAYER4": "{0,1,2,3}",
    "LAYER2": "{0,1}",
    "ATT": "{self_attn,cross_attn_image}",
    "CROSS": "{self_attn,cross_attn_token_to_image,cross_attn_image_to_token}",
    "WB": "{weight,bias}",
}


def expand(template: str) -> list[str]:
    for short, braces in SHORT.items():
        template = re.sub(rf"\b{short}\b", braces, template)
    parts = re.split(r"\{([^}]*)\}", template)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*choices)]


# Every tensor of sam2.1_hiera_tiny that is renamed only.
RENAMED: dict[str, str] = {}
for line in TABLE.strip().splitlines():
    official, theirs = line.split()
    RENAMED.update(zip(expand(official), expand(theirs), strict=True))

MATRIX = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
MATRICES = (
    "prompt_encoder.shared_embedding.positional_embedding",
    "shared_image_embedding.positional_embedding",
)
POINTS = [f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4)]
ALL_POINTS = "prompt_encoder.point_embed.weight"
